"""`pseudoris combine` as a user meets it, on runs that models made."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from pseudoris import ConfigError, combine, open_run
from pseudoris.files.location import RunLocation
from pseudoris.synthworld.demo import write_demo
from tests.builders.command import invoke, pseudoris_here
from tests.builders.scored_runs import scored_run

OF_KEYS = ("key", "image_id", "mask_id", "target_mask_ids", "rival_mask_id", "grounding_rival")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    for name, tau in (("v1", "1.0"), ("v2", "1.2")):
        scored_run(RunLocation.open(str(folder / name)), f"filtering.tau={tau}", num_shards=1)
    return folder


def test_what_was_combined_is_summed_up_and_said_on_the_card(two, tmp_path):
    out = tmp_path / "both"
    shown = invoke("combine", two / "v1", f"second={two / 'v2'}", out).output
    for name, tau in (("v1", "1"), ("second", "1.2")):
        assert re.search(rf"from {name} +5 images +\n", shown)
        assert f"{name}: A caption of one of several masks is kept if distinctiveness > {tau}." in shown
    invoke("verify", out)
    card = (out / "DATACARD.md").read_text(encoding="utf-8")
    for words in ("images of `v1`", "images of `second`", "distinctiveness > 1.2", f"the run at `{two / 'v2'}`"):
        assert words in card
    of_settings = r"Precision \w+, seed \d+\."
    assert re.search(rf"{of_settings}\n\n### `second`\n", card)
    assert re.search(rf"{of_settings}\n\nThe full configuration\nis in `_run.json`", card)
    assert "second: A caption of one of several masks is kept if distinctiveness > 1.2." in _quality(out)


def _quality(out: Path) -> str:
    invoke("gallery", out)
    return re.sub(r"\s+", " ", (out / "gallery" / "quality.html").read_text(encoding="utf-8").replace("&gt;", ">"))


def test_the_api_takes_paths_and_names(two, tmp_path):
    summary = combine([two / "v1", f"b={two / 'v2'}"], tmp_path / "both")
    assert summary.images == {"v1": 5, "b": 5}
    assert open_run(tmp_path / "both", source={"b": "elsewhere"}).counts.images == 10
    with pytest.raises(ConfigError, match="no images 'c' to be moved"):
        open_run(tmp_path / "both", source={"c": "elsewhere"})


def test_a_run_of_which_all_is_left_out_has_its_row_and_its_images_may_have_moved(two, tmp_path):
    scored_run(RunLocation.open(str(tmp_path / "copy")), "filtering.tau=1.3", num_shards=1, per_shard=4)
    words = (two / "v1", tmp_path / "copy", tmp_path / "out", "--unique", "similar")
    shown = invoke("combine", *words, "--source", f"copy={tmp_path}", "--plugin", "json").output
    assert re.search(r"from copy +0 images +\n", shown)


def test_a_split_that_gets_no_image_is_named(two, tmp_path):
    shown = invoke("combine", two / "v1", tmp_path / "out", "--hold-out", "val=0.000001").output
    assert "warning no image is in val (1e-06 of 5 images): each picture or group is drawn for itself" in shown
    # What is not held out is `train`, which no folder may have been drawn for.
    shown = invoke("combine", two / "v1", tmp_path / "most", "--hold-out", "val=0.999999").output
    assert "warning no image is in train (1e-06 of 5 images):" in shown
    assert "no image" not in invoke("combine", two / "v1", tmp_path / "all", "--hold-out", "val=1").output


def test_shares_that_the_draw_gives_are_said(two, tmp_path):
    shown = invoke("combine", two / "v1", two / "v2", tmp_path / "out", "--hold-out", "val=0.4").output
    splits = re.search(r"splits +train (\d+) \(.*%\), val (\d+) \(.*%\)", shown)
    assert splits is not None, shown
    assert int(splits[1]) + int(splits[2]) == 10
    assert f"| images by split | train {splits[1]}, val {splits[2]} |" in (tmp_path / "out/DATACARD.md").read_text()
    found = open_run(combine([two / "v1"], tmp_path / "api", hold_out={"test": 1}).out)
    # A single run has no name.
    assert "\n| images | `" in (tmp_path / "api/DATACARD.md").read_text()
    assert set(ds.dataset(sorted((tmp_path / "api/images").iterdir())).to_table()["split"].to_pylist()) == {"test"}
    assert found.counts.images == 5


def test_no_run_and_an_unknown_place_are_told(two, tmp_path):
    with pytest.raises(ConfigError, match="there is no run to combine"):
        combine([], tmp_path / "new")
    with pytest.raises(ConfigError, match="no images 'c' to be moved"):
        combine([two / "v1", two / "v2"], tmp_path / "new", source={"c": tmp_path})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["v1", "../x/v1", "new"], "both v1 and ../x/v1 would be named 'v1'"),
        (["a/b=v1", "v2", "new"], "'a/b=v1' is no NAME=PATH, whose NAME is a word without `/`"),
        ([f"{'n' * 256}=v1", "v2", "new"], "whose NAME is a word without `/` of 255 bytes at most"),
        (["v1", "v3", "new"], "there is no run at"),
        (["v1", "v2", "v1/inside"], "would be inside its parent"),
        (["v1", "w=v1", "new"], "is named twice"),
        (["v1", "link", "new"], "is named twice"),
        (["v1", "v2", "new", "--hold-out", "val=0.7", "--hold-out", "test=0.4"], "are 1.1 together: they may be 1"),
        (["v1", "v2", "new", "--hold-out", "val=0.1", "--group", "none.csv"], "--group none.csv is neither folder nor"),
    ],
)
def test_a_mistake_is_one_sentence(two, words, said):
    if "link" in words:
        (two / "link").symlink_to(two / "v1")
    ended = pseudoris_here("combine", *words, cwd=two, code=2)
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.ray
@pytest.mark.long
def test_two_runs_over_one_source_equal_the_run_over_both_but_for_keys_and_ids(ray_session, tmp_path):
    source = write_demo(tmp_path / "world", num_scenes=4)
    names = sorted(path.name for path in source.rglob("*") if path.is_file())
    settings = ("--preset", "tiny", "--set", "shards.max_images=1")
    for name, listed in (("v1", names[::2]), ("v2", names[1::2])):
        (tmp_path / f"{name}.txt").write_text("\n".join(listed), encoding="utf-8")
        only = ("--only", f"{name}.txt", *settings)
        pseudoris_here("annotate", str(source), name, *only, cwd=tmp_path, code=0)
    pseudoris_here("annotate", str(source), "whole", *settings, cwd=tmp_path, code=0)
    pseudoris_here("combine", "v1", "v2", "both", cwd=tmp_path, code=0)
    pseudoris_here("verify", "both", cwd=tmp_path, code=0)
    for table in ("images", "masks", "expressions", "failures"):
        assert _rows(tmp_path / "both", table) == _rows(tmp_path / "whole", table), table
    assert len(_rows(tmp_path / "both", "expressions")) > 100
    refused = pseudoris_here("annotate", str(source), "both", *settings, cwd=tmp_path, code=2)
    assert "and combine again" in refused.stderr


def _rows(run: Path, table: str) -> list[str]:
    """Return the rows of a table, sorted: ids without their image, and keys without their name."""
    found = []
    for row in ds.dataset(sorted(map(str, (run / table).iterdir()))).to_table().to_pylist():
        for name in OF_KEYS:
            if row.get(name) is not None:
                row[name] = re.sub(r"v[12]/|[0-9a-f]{16}", "", json.dumps(row[name]))
        found.append(json.dumps(row, default=str, sort_keys=True))
    return sorted(found)
