"""The sizes of windows: all shards once, no window for a handful, memory bounded before time.

And without Ray, what ends an executor: a requested stop, an error of Ray's.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import RayError

from pseudoris.pipeline import executor
from pseudoris.pipeline.executor import WINDOWS, WindowRule, WindowTimes, ray_executor, run_shards
from pseudoris.pipeline.interrupts import Interrupts
from pseudoris.schemas.errors import TransientError
from pseudoris.store.runs.pending_work import PendingWork


def times(*, start_s: float, shards_per_s: float, num_shards: int = 101) -> WindowTimes:
    first_s = 50.0 + start_s
    last_s = first_s + (num_shards - 1) / shards_per_s
    return WindowTimes(began_s=50.0, first_s=first_s, last_s=last_s, num_shards=num_shards)


def test_a_run_of_a_hundred_thousand_shards_is_one_execution_and_one_more_is_not():
    assert WINDOWS.size(100_000) == 100_000
    assert WINDOWS.size(100_001) == 10_000


@given(
    num_pending=st.integers(1, 5_000),
    bounds=st.tuples(st.integers(1, 200), st.integers(1, 200)).map(sorted),
    start_s=st.floats(0.01, 100),
    shards_per_s=st.floats(0.01, 100),
)
def test_windows_of_any_rule_add_up_to_the_run_and_respect_the_most(num_pending, bounds, start_s, shards_per_s):
    rule = WindowRule(max_shards=bounds[1], min_shards=bounds[0], num_starts=10)
    sizes, last = [], None
    while (left := num_pending - sum(sizes)) > 0:
        sizes.append(rule.size(left, last))
        last = times(start_s=start_s, shards_per_s=shards_per_s)
    assert sum(sizes) == num_pending
    assert all(1 <= size <= rule.max_shards for size in sizes)
    # Where the most is close to the least, what is left over may come as two halves.
    assert all(2 * size >= min(rule.min_shards, num_pending - sizes[0]) for size in sizes[1:])


def no_job(monkeypatch, build_dataset):
    """Put `build_dataset` in the place of the graph; what it is given of the job does not matter."""
    monkeypatch.setattr(executor, "build_dataset", lambda job, shards, actors: build_dataset(shards))
    monkeypatch.setattr(executor.ray, "get", lambda ref: ref)
    monkeypatch.setattr(executor, "block_to_outcome", lambda block: block)


class Dataset:
    """Yields its shards in place of bundles, and remembers whether it was closed."""

    def __init__(self, shards):
        self.shards, self.is_closed = shards, False

    def iter_internal_ref_bundles(self):
        try:
            for shard in self.shards:
                yield SimpleNamespace(blocks=[SimpleNamespace(ref=shard)])
        finally:
            self.is_closed = True


def test_a_requested_stop_ends_the_executor_once_the_commit_before_it_is_taken(monkeypatch):
    datasets = []
    no_job(monkeypatch, lambda shards: datasets.append(Dataset(shards)) or datasets[0])
    interrupts = Interrupts()
    receipts = ray_executor(None, {}, interrupts)(PendingWork([5, 6, 7]))
    assert next(receipts) == 5
    with pytest.raises(KeyboardInterrupt):
        interrupts.handle(2, None)
    with pytest.raises(KeyboardInterrupt):
        next(receipts)
    assert datasets[0].is_closed


def test_an_error_of_rays_is_raised_as_ours_without_its_frames(monkeypatch):
    def fail(shards):
        raise RayError("a node was lost")

    no_job(monkeypatch, fail)
    with pytest.raises(TransientError, match=r"a node was lost.*run the same command again") as caught:
        list(run_shards(None, [0], {}))
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    assert all(entry.name != "fail" for entry in caught.traceback)
