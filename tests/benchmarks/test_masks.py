"""The masks' benchmark compares equals: the same masks on both sides, the encoder left out of both."""

import json

import pytest

from benchmarks import mask_sides, masks
from benchmarks.mask_sides import Sides
from pseudoris.schemas.config_layers import load_config

FEW_POINTS = ["masks.points_per_side=4", "masks.crop_n_layers=0"]


@pytest.fixture(scope="module")
def sides():
    return Sides(load_config("tiny", assignments=FEW_POINTS), num_images=1, kept_share=0.4)


def test_both_sides_find_the_same_masks(sides):
    agreement = sides.agree()
    assert agreement.num_same_codes == agreement.num_ours == agreement.num_theirs > 0
    assert agreement.mean_iou == 1.0
    assert 0 < agreement.share_kept < 1
    assert "codes equal" in str(agreement)


def test_different_masks_are_not_timed(sides, monkeypatch):
    monkeypatch.setattr(mask_sides, "codes", lambda annotations: [])
    monkeypatch.setattr(mask_sides, "best_ious", lambda ours, theirs, size: [[0.5]])
    with pytest.raises(ValueError, match="find different masks"):
        sides.agree()


@pytest.mark.long
def test_the_command_line_writes_rows_with_the_promised_keys(tmp_path):
    path = tmp_path / "rows.json"
    arguments = [f"--set={assignment}" for assignment in FEW_POINTS]
    masks.main([*arguments, "--images", "1", "--repeats", "1", "--json", str(path)])
    rows = json.loads(path.read_text(encoding="utf-8"))
    assert len(rows) == 3
    assert {"case", "baseline_s", "ours_s", "ratio", "peak_rss_bytes", "note"} <= rows[0].keys()
    assert "of candidates pass predicted IoU" in rows[0]["note"]
