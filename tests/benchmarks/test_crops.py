"""The crops' benchmark checks both sides before it times them."""

import json

import pytest
import torch

from benchmarks import crops


def build_case():
    return crops.build_case(2, height=60, width=50)


def test_the_row_states_how_far_both_sides_lie_apart():
    row = crops.measure(build_case(), size=32, device=torch.device("cpu"), repeats=1)
    assert "crops, cpu, 60x50 to 32, 2 masks, 4 kinds" in row.case
    assert "from the definition max" in row.note
    assert row.ratio > 0


def test_crops_that_differ_are_not_timed(monkeypatch):
    right = crops.batched
    monkeypatch.setattr(crops, "batched", lambda *arguments: right(*arguments) + 0.01)
    with pytest.raises(ValueError, match="crops differ by"):
        crops.measure(build_case(), size=32, device=torch.device("cpu"), repeats=1)


def test_the_command_line_writes_a_row_a_number_of_masks(tmp_path):
    path = tmp_path / "rows.json"
    crops.main(["--masks", "1", "2", "--size", "16", "--image", "40x30", "--repeats", "1", "--json", str(path)])
    rows = json.loads(path.read_text(encoding="utf-8"))
    assert [set(row) >= {"case", "baseline_s", "ours_s", "ratio", "peak_rss_bytes"} for row in rows] == [True, True]
