"""The trial of the composer on photographs composes what a run does, and counts verdicts as it says."""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from evidence.experiments.composing.photograph_sheets import write_sheets
from evidence.experiments.composing.photographs import (
    ALL,
    Photograph,
    Verdicts,
    by_words,
    composed,
    figures,
    names_of,
    photographs,
    run_config,
)
from pseudoris.files.location import RunLocation
from pseudoris.schemas.ids import mask_index
from pseudoris.schemas.shard import ShardImage, clean_text
from pseudoris.store.tables.open_run import OpenRun
from pseudoris.training.calibration.run_units import posterior_of_run
from tests.builders.command import pseudoris_here
from tests.photographs.test_composed import settings

ASSETS = Path(__file__).parents[4] / "shared" / "assets"
NAME = "000000000308.jpg"
PRESET = "base-composed"
needs_assets = pytest.mark.skipif(
    not (ASSETS / "captions").is_dir(), reason=f"the captions of photographs are absent: {ASSETS.name} beside the clone"
)


def write_inputs(folder: Path, photo: Photograph) -> None:
    """Write the photograph, its masks as SA-1B has them, and its captions for the captioner that reads a file."""
    for name in ("source", "masks"):
        (folder / name).mkdir()
    shutil.copyfile(ASSETS / "photos" / NAME, folder / "source" / NAME)
    size = {"height": photo.image.height, "width": photo.image.width}
    masks = [{"segmentation": {"size": each.rle_size, "counts": each.rle_counts}} for each in photo.image.masks]
    document = json.dumps({"image": size, "annotations": masks})
    (folder / "masks" / NAME).with_suffix(".json").write_text(document)
    told = json.loads((ASSETS / "captions" / "captions.json").read_text(encoding="utf-8"))[NAME]
    counted: list[defaultdict[str, Counter[str]]] = [defaultdict(Counter) for _ in told]
    for of_mask, each in zip(counted, told, strict=True):
        for crop, texts in (("masked", each["masked"]), ("context_1.2", each["context"])):
            for text in texts:
                of_mask[clean_text(text)][crop] += 1
    (folder / "captions.json").write_text(json.dumps({NAME: counted}))


@needs_assets
@pytest.mark.ray
@pytest.mark.slow
def test_a_run_with_ready_masks_and_told_captions_composes_what_the_trial_composes(ray_session, stub_engines, tmp_path):
    (photo,) = (each for each in photographs(ASSETS, ALL) if each.image.key == NAME)
    write_inputs(tmp_path, photo)
    words = ("--preset", PRESET, *settings(tmp_path))
    pseudoris_here("annotate", str(tmp_path / "source"), str(tmp_path / "out"), *words, code=0)
    rows = ds.dataset(tmp_path / "out" / "expressions").to_table(filter=ds.field("source") == "composer").to_pylist()
    found = {(*map(mask_index, row["target_mask_ids"]), row["kind"], row["text"]): row["confidence"] for row in rows}
    config = run_config(PRESET, [], [photo], is_taught=False)
    said = {(*row["targets"], row["kind"], row["text"]): row["confidence"] for row in composed([photo], config, ALL)}
    assert len(said) >= 5
    assert said == pytest.approx(found)
    taught = run_config(PRESET, [], [photo], is_taught=True).filtering.fitted_values.posterior
    assert taught == posterior_of_run(OpenRun.at(RunLocation.open(str(tmp_path / "out"))))


@needs_assets
def test_a_sheet_names_the_texts_and_shows_each_photograph(tmp_path):
    (photo,) = (each for each in photographs(ASSETS, ALL) if each.image.key == NAME)
    asked = [{"photo": NAME, "masks": ALL, "targets": [1], "kind": "attribute", "text": "the woman"}]
    write_sheets(tmp_path, ASSETS / "photos", [photo.image], asked)
    page = json.loads((tmp_path / NAME).with_suffix(".json").read_text())
    assert page["texts"] == asked
    assert all((tmp_path / each).stat().st_size > 10_000 for each in page["sheets"])


@needs_assets
def test_the_fewer_words_may_be_said_the_fewer_texts_and_wider_names_are_told_apart():
    photos = [each for each in photographs(ASSETS, ALL) if each.image.key == NAME]
    fewest, some, most = sorted(by_words(photos, run_config(PRESET, [], photos, is_taught=False), ALL).items())[::-1]
    assert [fewest[0], some[0], most[0]] == ["that some rival lacks", "shipped", "every word"]
    assert fewest[1] <= some[1] <= most[1]
    assert names_of("dog") - names_of("dog", has_wider=False) == {"animal", "animals"}


def said(*targets, text, kind="attribute", masks="all", **more):
    return {"photo": "a.jpg", "masks": masks, "targets": [*targets], "kind": kind, "text": text, **more}


def test_verdicts_join_by_instance_and_judges_who_differ_count_as_not_right():
    # Masks 0 and 1 of `large` are the instances 0 and 2.
    numbers = {("a.jpg", "all"): [0, 1, 2, 3], ("a.jpg", "large"): [0, 2]}
    right, wrong, unclear = ({"verdict": each, "odd": False} for each in ("right", "wrong", "unclear"))
    lines = [
        said(0, text="the cat", **right),
        said(1, text="the tree", masks="large", **{**right, "odd": True}),
        said(1, text="the dog", **right),
        said(1, text="the dog", **wrong),
        said(3, text="the hat", kind="position", **unclear),
        said(text="the zebra", kind="none", **right),
    ]
    verdicts = Verdicts(map(json.dumps, lines), numbers)
    texts = [
        said(0, text="the cat", confidence=0.9),
        said(0, text="the black cat", confidence=0.8),
        said(1, text="the dog", confidence=0.7),
        said(2, text="the tree", confidence=0.6),
        said(3, text="the hat", kind="position", confidence=0.5),
        said(text="the zebra", kind="none", confidence=1.0),
    ]
    photo = Photograph(ShardImage(0, "a", "a.jpg"), numbers["a.jpg", "all"], ["cat", "dog", "tree", "hat"])
    found = figures([photo], texts, verdicts)
    one = found["one mask"]
    assert (one["texts"], one["judged"], one["num_right"]) == (5, 4, 2)
    assert one["stated"]["value"] == pytest.approx((0.9 + 0.7 + 0.6 + 0.5) / 4)
    assert one["odd"]["value"] == 0.25
    assert found["coverage"]["value"] == 0.5
    assert found["with a text"]["value"] == 1.0
    assert (found["none"]["num_right"], found["position"]["num_right"]) == (1, 0)
    assert verdicts.of(texts[1]) is None
    # No text is of another photograph.
    other = replace(photo, image=replace(photo.image, key="b.jpg"))
    assert figures([other], texts, verdicts)["one mask"]["texts"] == 0
