"""The experiment on precision counts what it says, and its float16 is that of a GPU: sums in float32, rounded."""

import json

import pytest
import torch

from evidence.experiments.precision_costs import SummedInFloat32, main


@pytest.mark.slow
@pytest.mark.long
def test_the_command_compares_each_stage_in_both_precisions(tmp_path):
    main(["--images", "1", "--masks", "2", "--json", str(tmp_path / "costs.json")])
    rows = json.loads((tmp_path / "costs.json").read_text())["tiny"]
    assert [row["precision"] for row in rows] == ["bfloat16", "float16"]
    for row in rows:
        # Two masks, four kinds of crop, and eleven captions each.
        assert row["captions"] == 2 * 4 * 11
        assert 0.9 * row["captions"] <= row["equal captions"]
        assert row["kept in chain"] <= row["kept"] <= row["expressions"]
        assert row["decided alike"] <= row["expressions"]
        assert row["equal masks"] <= row["masks"]
        assert 0.9 < row["least"] <= row["iou"] <= 1


@pytest.mark.parametrize("is_cast", [True, False], ids=["under autocast", "of half operands"])
def test_products_of_float16_are_summed_in_float32_and_rounded(is_cast):
    left, right = (torch.randn(64, 512, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    due = (left.half().float() @ right.half().float().t()).half()
    assert not torch.equal(due.float(), left @ right.t())
    with SummedInFloat32(), torch.autocast("cpu", dtype=torch.float16, enabled=is_cast):
        sides = (left, right) if is_cast else (left.half(), right.half())
        found = sides[0] @ sides[1].t()
        added = torch.zeros(1, 64, 64, dtype=torch.float16).baddbmm_(left.half()[None], right.half().t()[None])
    assert torch.equal(found, due)
    assert torch.equal(added[0], due)
    assert (left @ right.t()).dtype == torch.float32
