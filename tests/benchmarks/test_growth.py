"""How stages grow: the exponent of a power is found, a point has the size it says, a run's curve its commits."""

from __future__ import annotations

import ctypes
import json
import sys
from unittest import mock

import pytest
import torch

from benchmarks import growth
from benchmarks.growth import Curve, exponent, measure, plot, shard_of
from benchmarks.growth import _curve_of as curve_of
from benchmarks.measurement import peak_rss_bytes, reset_peak
from benchmarks.process_watch import Sample, Usage, Watched


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_is_found_whatever_the_small_sizes_cost(power):
    sizes = (1, 2, 4, 8, 16, 32)
    assert exponent(sizes, [100.0, 100.0, 100.0, *(3 * size**power for size in sizes[3:])]) == pytest.approx(power)


@pytest.mark.slow
@pytest.mark.parametrize(("part", "size"), [("masks", 1), ("masks", 120), ("image size", 384), ("shard size", 3)])
def test_a_point_has_the_size_that_it_says(part, size):
    shard = shard_of(part, size)
    found = {
        "masks": len(shard.images[0].masks),
        "image size": shard.images[0].height,
        "shard size": len(shard.images),
    }
    assert found[part] == size


@pytest.mark.slow
def test_masks_of_a_picture_of_scenes_lie_apart_within_it():
    (image,) = shard_of("masks", 120).images
    assert (image.height, image.width) == (1152, 1152)
    assert len({mask.box_xyxy_px for mask in image.masks}) == 120
    assert max(mask.box_xyxy_px[2] for mask in image.masks) > 700


def test_memory_of_next_to_nothing_has_no_exponent():
    row = Curve("caption", "masks", (1, 2, 4, 8), (1.0, 2.0, 4.0, 8.0), (0, 0, 4096, 0)).row()
    assert (row["exponent_s"], row["exponent_bytes"]) == (1.0, None)


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
        monkeypatch.setattr(growth, "_curves", mock.Mock(return_value=curves))
        growth.main(["--json", str(path)])
    assert [(row["case"], row["seconds"][2]) for row in json.loads(path.read_text())] == [("caption", 4), ("filter", 3)]


@pytest.mark.slow
def test_every_stage_is_measured_at_a_point():
    found = measure("masks", 2, "tiny", (), 1)
    assert set(found) == {"caption", "filter"}
    assert all(seconds > 0 and size > 0 for seconds, size in found.values())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone can forget a peak")
def test_a_forgotten_peak_counts_no_more_and_freed_memory_neither():
    held = torch.ones(50_000_000)
    peak = peak_rss_bytes()
    del held
    ctypes.CDLL(None).malloc_trim(0)
    assert reset_peak() < peak - 150_000_000
