"""Jobs run in child processes, and come back in order."""

import os

import pytest

from experiments.process_pool import run_jobs


def squared(number):
    if number < 0:
        raise ValueError(f"{number} is negative")
    return number * number, os.getpid(), os.environ.get("OMP_NUM_THREADS")


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_the_order_of_the_jobs(processes):
    found = run_jobs(squared, [3, 1, 2], processes, shown="squares")
    assert [value for value, *_ in found] == [9, 1, 4]
    assert (os.getpid() in {pid for _, pid, _ in found}) == (processes == 1)
    if processes == 2:
        assert {threads for *_, threads in found} == {"1"}


@pytest.mark.parametrize("processes", [1, 2])
def test_what_a_job_raises_is_raised(processes):
    with pytest.raises(ValueError, match="-1 is negative"):
        run_jobs(squared, [1, -1], processes, shown="squares")


def test_this_process_keeps_its_own_environment(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MALLOC_MMAP_MAX_", raising=False)
    before = dict(os.environ)
    run_jobs(squared, [3, 1], 2, shown="squares")
    assert dict(os.environ) == before
