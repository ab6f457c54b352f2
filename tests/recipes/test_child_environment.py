"""The memory settings that processes on a CPU start with."""

from __future__ import annotations

import os

import pytest

from recipes.child_environment import MEMORY_ENVIRONMENT, child_environment


def test_children_have_the_settings_of_malloc_that_they_were_given_and_no_others(monkeypatch):
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1")
    monkeypatch.delenv("MALLOC_MMAP_MAX_", raising=False)
    with child_environment({}):
        assert "MALLOC_TOP_PAD_" not in os.environ
    with child_environment(MEMORY_ENVIRONMENT):
        assert MEMORY_ENVIRONMENT.items() <= os.environ.items()
    assert os.environ["MALLOC_TOP_PAD_"] == "1"
    assert "MALLOC_MMAP_MAX_" not in os.environ


def test_a_failure_leaves_this_process_its_own_environment():
    before = dict(os.environ)
    with pytest.raises(ValueError, match="lost"), child_environment(MEMORY_ENVIRONMENT):
        raise ValueError("lost")
    assert dict(os.environ) == before
