"""Operations and bytes are held against this machine's peaks."""

import json

import pytest

from benchmarks import mask_parts, roofline

LITTLE = ["--images", "2", "--masks", "2", "--points", "4", "--steps", "3", "--repeats", "1"]


@pytest.mark.long
def test_every_stage_is_a_point_below_the_peak(tmp_path, capsys):
    path = tmp_path / "points.json"
    roofline.main([*LITTLE, "--json", str(path)])
    every = json.loads(path.read_text(encoding="utf-8"))
    shown = capsys.readouterr().out
    points, parts = (
        [point for point in every if point["case"].startswith(" ") == is_part] for is_part in (False, True)
    )
    assert [point["case"].split(",")[0] for point in points] == ["propose", "caption", "filter"]
    for name in ("operations", "bytes"):
        assert sum(part[name] for part in parts) == points[0][name]
    assert {part["case"].strip() for part in parts} == {name for name, *_ in mask_parts.PARTS} | {mask_parts.REST}
    for point in points:
        assert point["operations"] > 1e6
        assert point["bytes"] > 1e6
        assert 0 < point["share_of_operations"] < 1.05
        assert point["case"] in shown


@pytest.mark.long
def test_peaks_are_those_of_this_machine():
    peaks = roofline.measure_peaks()
    assert peaks.operations > 1e9
    assert peaks.bytes > 1e8
