"""The figures of a long run's memory, from readings made by hand."""

from __future__ import annotations

import pytest

from benchmarks.memory import _driver_row
from benchmarks.process_watch import Sample, Usage, Watched

MB = 1_000_000


def row(case: str, *, once: int, a_shard: float):
    """A hundred shards, one a second: `once` bytes are taken in the warm-up, then `a_shard` each."""
    samples = [
        Sample(
            float(second), Usage(private_bytes=100 * MB + (once if second > 10 else 0) + int(a_shard * second)), Usage()
        )
        for second in range(100)
    ]
    answer = {"commits_s": [float(second) for second in range(100)]}
    return _driver_row(case, Watched(answer, samples), rows=400)


def test_growth_is_the_slope_after_the_warm_up_and_what_is_taken_once_stands_apart():
    found = row("driver", once=30 * MB, a_shard=5_000.0)
    assert found["growth_bytes_per_1000_shards"] == pytest.approx(5 * MB, rel=1e-6)
    assert found["warm_up_bytes"] == pytest.approx(30 * MB, rel=0.01)
    assert found["peak_bytes"] == 130 * MB + 5_000 * 99
