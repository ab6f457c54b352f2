"""Both sides are profiled by kind of operation."""

import json

import pytest

from benchmarks import profile


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::addmm", "matrix products"),
        ("mkldnn::_linear_pointwise", "matrix products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::index_select", "gathering, copying"),
        ("aten::add_", "activations"),
        ("aten::sort", "sorting"),
        ("aten::nothing_known", "other"),
    ],
)
def test_operations_are_told_apart_by_their_names(name, kind):
    assert profile.kind_of(name) == kind


@pytest.mark.long
def test_both_sides_of_captions_and_masks_are_profiled(tmp_path, capsys):
    path = tmp_path / "profile.json"
    profile.main(["--preset", "tiny", "--masks", "2", "--steps", "3", "--points", "4", "--json", str(path)])
    rows = json.loads(path.read_text(encoding="utf-8"))
    assert [row["case"].split(":")[0] for row in rows] == [
        "captions before",
        "captions after",
        "masks before",
        "masks after",
    ]
    assert all(row["seconds"]["matrix products"] > 0 for row in rows)
    assert "matrix products" in capsys.readouterr().out
