"""How stages grow: the exponent of a power is found, a point has the size it says, a run's curve its commits."""

from __future__ import annotations

import json
from unittest import mock

import pytest

from benchmarks import growth
from benchmarks.growth import Curve, exponent, plot
from benchmarks.growth import _curve_of as curve_of
from benchmarks.process_watch import Sample, Usage, Watched


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_is_found_whatever_the_small_sizes_cost(power):
    sizes = (1, 2, 4, 8, 16, 32)
    assert exponent(sizes, [100.0, 100.0, 100.0, *(3 * size**power for size in sizes[3:])]) == pytest.approx(power)


def test_a_run_is_halved_from_its_end_and_has_the_highest_memory_and_all_cpu_seconds_until_then():
    read = [(0, 1.0, 1.0, 5), (1, 1.5, 2.0, 5), (3, 2.0, 7.0, 9), (8, 2.5, 6.0, 7)]
    samples = [
        Sample(at, Usage(cpu_s=driver_s, private_bytes=size), Usage(cpu_s=0.5), Usage(cpu_s=workers_s, private_bytes=1))
        for at, driver_s, workers_s, size in read
    ]
    watched = Watched({"start_s": 0, "commits_s": [2, 4, 6, 9], "num_images": 8}, samples)
    curve = curve_of("a run", watched)
    # A worker has ended before the last reading.
    assert (curve.sizes, curve.seconds, curve.bytes) == ((2, 4, 8), (1.5, 7.0, 7.0), (6, 10, 10))
    drawn = plot([curve])
    assert "a run: 0.00" in drawn
    assert drawn.count("<polyline") == 1


def test_a_curve_replaces_its_own_row_and_leaves_the_others(tmp_path, monkeypatch):
    def curve(case, seconds):
        return Curve(case, "images", (1, 2, 4), (1.0, 2.0, seconds), (0, 0, 0), ("a=1",))

    path = tmp_path / "growth.json"
    for curves in ([curve("caption", 2.0), curve("filter", 3.0)], [curve("caption", 4.0)]):
        monkeypatch.setattr(growth, "curves_of", mock.Mock(return_value=curves))
        growth.main(["--json", str(path)])
    assert [(row["case"], row["seconds"][2]) for row in json.loads(path.read_text())] == [("caption", 4), ("filter", 3)]
