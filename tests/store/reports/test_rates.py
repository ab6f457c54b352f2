from __future__ import annotations

import numpy as np
import pytest

from pseudoris.store.reports.status import WINDOW_S, measure_rates


def rates(times_s, *, images=10, shard_s=30.0, now_s=None):
    times = np.array(times_s, np.float64)
    counts = np.full(times.size, images, np.int64)
    return measure_rates(times, counts, shard_s=shard_s, now_s=times[-1] if now_s is None else now_s)


def test_a_steady_run_has_one_rate_now_and_overall():
    found = rates(np.arange(1, 101) * 30.0)
    assert found.overall == pytest.approx(10 / 30)
    assert found.now == pytest.approx(10 / 30)
    assert found.num_pauses == 0


@pytest.mark.parametrize("pause_s", [200.0, 3_600.0, 100 * 86_400.0])
def test_a_pause_between_two_starts_does_not_lower_the_overall_rate(pause_s):
    first = np.arange(1, 51) * 30.0
    found = rates(np.concatenate([first, first + first[-1] + pause_s]))
    assert found.num_pauses == 1
    assert found.overall == pytest.approx(10 / 30)
    assert found.active_s == pytest.approx(100 * 30.0)


def test_actors_that_commit_in_bursts_do_not_pause_between_them():
    bursts = np.concatenate([np.full(8, start) + np.arange(8) for start in np.arange(1, 21) * 300.0])
    found = rates(bursts, shard_s=300.0)
    assert found.num_pauses == 0
    assert found.overall == pytest.approx(8 * 10 / 300, rel=0.02)


def test_now_follows_what_changed_in_the_last_minutes():
    slow, fast = np.arange(1, 41) * 60.0, 2_400 + np.arange(1, 101) * 10.0
    found = rates(np.concatenate([slow, fast]))
    assert found.now == pytest.approx(1.0, rel=0.02)
    assert found.overall == pytest.approx(140 * 10 / (30 + 39 * 60 + 1_000))


def test_a_run_that_stopped_long_ago_has_no_rate_now():
    assert rates(np.arange(1, 41) * 30.0, now_s=40 * 30.0 + WINDOW_S + 1).now is None


def test_the_stretch_after_a_pause_is_not_diluted_by_the_pause():
    times = np.concatenate([np.arange(1, 11) * 30.0, 100_000 + np.arange(1, 5) * 30.0])
    assert rates(times).now == pytest.approx(10 / 30)


def test_large_shards_widen_the_window():
    found = rates(np.arange(1, 10) * 900.0, shard_s=900.0)
    assert found.window_s == 2_700.0
    assert found.now == pytest.approx(10 / 900)
