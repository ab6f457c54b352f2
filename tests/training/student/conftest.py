from __future__ import annotations

import pytest

from tests.training.dataset.builders import build_run


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """For every test of the student."""


@pytest.fixture
def run(tmp_path) -> str:
    """Twelve embedded images with two masks of four kept texts each; where it lies."""
    return build_run(tmp_path / "data").location.root
