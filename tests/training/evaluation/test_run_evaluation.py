"""Which images of a run are judged by which truth, what is said of those that are not, and the report's files."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.estimate import UNDEFINED
from pseudoris.schemas.shard import MaskRecord
from pseudoris.store.runs.header import require_header
from pseudoris.store.tables.open_run import OpenRun
from pseudoris.synthworld.scene_truth import SceneTruth
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.training.evaluation import as_tree, evaluate_run, write_report
from pseudoris.training.evaluation.evaluation_report import (
    HTML_NAME,
    JSON_NAME,
    MARKDOWN_NAME,
    html,
    image_lines,
    markdown,
)
from pseudoris.training.evaluation.human_truth import beside, open_truth
from pseudoris.training.evaluation.run_evaluation import FIGURES, MASK_FIGURES, SET_TITLES
from pseudoris.training.evaluation.run_images import CANDIDATE_COLUMNS, committed_images
from tests.builders.human import rle
from tests.builders.scene_runs import quarantined, said, scene_run, scenes

KNOWN = scenes(6)
HOSTILE = "</style><script>document.title='owned'</script>|`_x_`"


def run(tmp_path, known=KNOWN, **options):
    location = RunLocation.open(str(tmp_path / "run"))
    scene_run(location, known, **options)
    return location


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of all the scenes, which its tests only read."""
    return run(tmp_path_factory.mktemp("whole"))


def truth(known=KNOWN):
    return SceneTruth(known, "the scenes")


def test_images_that_the_truth_does_not_know_are_counted_and_change_no_figure(tmp_path, whole):
    few, told = dict(list(KNOWN.items())[:4]), []
    found = evaluate_run(whole, truth(few), on_progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    alone = evaluate_run(run(tmp_path / "few", few), truth(few))
    assert (found.images.judged, found.images.unknown, found.images.unknown_key) == (4, 2, "scene-004.png")
    assert found.sets == alone.sets
    assert found.mask_quality == alone.mask_quality


def test_the_objects_of_a_quarantined_image_are_missed(tmp_path, whole):
    def change(image):
        return quarantined(image) if image.key == "scene-000.png" else image

    all_there = evaluate_run(whole, truth())
    found = evaluate_run(run(tmp_path, change=change), truth())
    assert (found.images.judged, found.images.judged_quarantined, found.images.quarantined) == (6, 1, 1)
    assert found.objects == all_there.objects
    assert found.masks < all_there.masks
    assert found.mask_quality["recall_50"].value < all_there.mask_quality["recall_50"].value


def test_a_sample_reads_shards_spread_evenly(whole):
    images = evaluate_run(whole, truth(), sample=2).images
    assert (images.judged, images.shards_read, images.shards) == (4, 2, 3)


def test_without_an_image_in_common_a_key_of_each_side_is_named(whole):
    other = SceneTruth({"elsewhere/a.png": make_scene(Split.DEMO, 0)}, "other scenes")
    with pytest.raises(ConfigError, match=r"no image in common: .*'scene-000\.png'.*'elsewhere/a\.png'.*SOURCE"):
        evaluate_run(whole, other)


def test_without_a_commit_there_is_nothing_to_judge(tmp_path):
    with pytest.raises(ConfigError, match="has no committed shard yet"):
        evaluate_run(run(tmp_path, committed=[]), truth())


def with_mask(image, size, counts):
    record = MaskRecord(f"{image.image_id}-0000", 0, size, counts, (0, 0, 10, 10), 10)
    return replace(image, height=size[0], width=size[1], masks=(record,), expressions=())


def test_another_size_than_the_truths_is_another_picture(tmp_path):
    location = run(tmp_path, change=lambda image: with_mask(image, (10, 20), rle(np.eye(10, 20))["counts"]))
    with pytest.raises(ConfigError, match=r"scene-000\.png has 10 x 20 pixels .* 192 x 192 in the truth"):
        evaluate_run(location, truth())


def test_a_damaged_mask_is_refused_before_it_is_decoded(tmp_path):
    location = run(tmp_path, change=lambda image: with_mask(image, (192, 192), "0P6"))
    with pytest.raises(ConfigError, match=r"mask .*-0000 of shard 0 of .*run does not decode: .* `pseudoris verify`"):
        evaluate_run(location, truth())


@pytest.mark.parametrize("table", ["masks", "expressions"])
def test_rows_in_another_order_than_their_images_are_refused(tmp_path, table):
    location = run(tmp_path, per_shard=6)
    (part,) = Path(location.root).glob(f"{table}/shard-00000000.*.parquet")
    found = pq.read_table(part)
    pq.write_table(found.take(np.arange(len(found))[::-1]), part)
    with pytest.raises(ConfigError, match=rf"the {table} of shard 0 .* not those of its images, in their order"):
        evaluate_run(location, truth())


def test_a_decoder_of_a_plug_in_counts_beside_the_known_ones(tmp_path):
    def change(image):
        mask = image.masks[0].mask_id
        return replace(image, expressions=(said(mask, "a", "greedy", "beam"), said(mask, "b")))

    (shard,) = OpenRun.at(run(tmp_path, scenes(1), change=change)).shards()
    (image,) = committed_images(shard, *CANDIDATE_COLUMNS)
    assert image.candidates.draws.tolist() == [[1, 0, 0, 1], [0, 0, 0, 0]]
    assert image.candidates.weights().tolist() == [[1, 0, 0, 0, 2, 1], [0, 0, 0, 0, 1, 1]]


@pytest.mark.parametrize(
    ("source", "address"),
    [
        ("/data/demo/images", "/data/demo/truth.json"),
        ("/data/demo/images/", "/data/demo/truth.json"),
        ("s3://bucket/demo/images", "s3://bucket/demo/truth.json"),
        ("s3://bucket/images/", "s3://bucket/truth.json"),
        ("images", "/truth.json"),
    ],
)
def test_the_truth_is_looked_for_beside_the_images(source, address):
    assert beside(source, SceneTruth.file_name) == address


def test_a_bucket_as_a_whole_has_nothing_beside_it(whole):
    header = require_header(whole).model_copy(update={"source": "s3://bucket"})
    with pytest.raises(ConfigError, match=r"no file at .*synthworld:FILE"):
        open_truth("synthworld", header, SceneTruth)


@pytest.fixture(scope="module")
def found(whole):
    """The evaluation of a run of which the truth knows four images."""
    return evaluate_run(whole, truth(scenes(4)))


def test_three_files_hold_the_same_figures(found, tmp_path):
    address = write_report(found, RunLocation.open(str(tmp_path / "report")))
    assert address == str(tmp_path / "report" / HTML_NAME)
    tree = json.loads((tmp_path / "report" / JSON_NAME).read_text())
    assert tree == json.loads(json.dumps(as_tree(found)))
    texts = [(tmp_path / "report" / name).read_text() for name in (MARKDOWN_NAME, HTML_NAME)]
    for text in texts:
        for each in (*FIGURES.values(), *MASK_FIGURES.values()):
            assert each.title in text
        for name in SET_TITLES:
            for figure, about in FIGURES.items():
                assert found.sets[name][figure].value_text(about.digits) in text
                assert found.sets[name][figure].interval_text(about.digits) in text
        assert "not in the truth, such as scene-004.png" in text
        assert "held out of training" in text


def test_json_has_null_for_what_nothing_was_counted_of(found, tmp_path):
    sets = {**found.sets, "beam": dict.fromkeys(FIGURES, UNDEFINED)}
    write_report(replace(found, sets=sets), RunLocation.open(str(tmp_path)))
    tree = json.loads((tmp_path / JSON_NAME).read_text(), parse_constant=pytest.fail)
    assert tree["sets"]["beam"]["accuracy"] == {"value": None, "low": None, "high": None}


def test_names_from_outside_are_no_markup(found):
    hostile = replace(found, run=HOSTILE, images=replace(found.images, unknown_key=HOSTILE), notes=(HOSTILE,))
    page, text = html(hostile), markdown(hostile)
    assert "<script" not in page
    assert page.count("</style>") == 1
    assert "<script" not in text
    assert "\\|\\`\\_x\\_\\`" in text
    assert image_lines(hostile)["run"] == HOSTILE


def test_the_page_needs_nothing_else_and_its_policy_allows_its_own_style_alone(found):
    page = html(found)
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src &#39;sha256-{digest}&#39;" in page
    assert "default-src &#39;none&#39;" in page
    assert not re.search(r"<(script|link|img|iframe)\b|style=|url\(|@import|https?://", page)
    assert "color-scheme: light dark" in style
