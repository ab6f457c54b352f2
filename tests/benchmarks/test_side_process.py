"""A side's process has its own environment, holds one object and is watched."""

import os
from importlib import import_module

import pytest

from benchmarks.side_process import SideProcess
from pseudoris.workers.process_memory import MEMORY_ENVIRONMENT


@pytest.mark.slow
def test_a_side_has_its_environment_and_its_memory_is_watched():
    process = SideProcess(MEMORY_ENVIRONMENT, import_module, name="os")
    name, value = next(iter(MEMORY_ENVIRONMENT.items()))
    assert process.call("getenv", name) == value
    assert os.getenv(name) is None
    pid, peak_pss_bytes = process.watched("getpid")
    assert pid != os.getpid()
    assert peak_pss_bytes > 1_000_000
    process.close()
