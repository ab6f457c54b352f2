"""What people mend in Label Studio comes back: the rows of corrected images are theirs, and all others stay."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pseudoris.files.location import RunLocation
from pseudoris.interchange.imports import ImportRequest, ImportSummary, correct_run
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.rle import decode
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.ids import image_id
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.reports.data_card import CARD_NAME
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.manifest import write_manifest
from pseudoris.store.runs.receipts import latest_receipts
from pseudoris.store.sessions.refiltered_run import RuleChange, refilter
from pseudoris.store.tables.annotations import iter_annotations
from pseudoris.store.tables.open_run import OpenRun
from pseudoris.training.evaluation.human_truth import HumanTruth
from tests.builders.human import box_mask
from tests.builders.studio import (
    annotation,
    deleted,
    mask_of,
    read_tasks,
    spelt_strokes,
    submitted,
    texts_of,
    write_project,
)
from tests.interchange.exports.builders import BuiltRun, build_run_of_several, export
from tests.store.builders import HEIGHT, WIDTH

THREE, PAIR, ONE = (image_id(key) for key in ("a/three.jpg", "a/group.png", "b/one.jpg"))


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    run = build_run_of_several(RunLocation.open(str(tmp_path_factory.mktemp("parent") / "run")), per_shard=1)
    write_manifest(run.location, latest_receipts(run.location))
    return run


@pytest.fixture(scope="module")
def tasks(parent, tmp_path_factory):
    """The exported tasks by image id."""
    folder = tmp_path_factory.mktemp("tasks") / "export"
    export("label-studio", parent, RunLocation.open(str(folder)))
    return {
        image: task for task in read_tasks(folder) for image in (THREE, PAIR, ONE) if image in task["data"]["image"]
    }


@pytest.fixture
def correct(parent, tmp_path):
    """Import a project's tasks into `out` of the test's folder."""

    def run(project, name: str = "ana.json", **words) -> tuple[ImportSummary, RunLocation]:
        path = tmp_path / name
        if isinstance(project, bytes):
            path.write_bytes(project)
        else:
            write_project(path, project)
        request = ImportRequest(str(path), parent.location.root, load_config("tiny", None, []), "label-studio", **words)
        out = RunLocation.open(str(tmp_path / "out"))
        return correct_run(request, out, on_progress=lambda done, total: None, on_wait=lambda text: None), out

    return run


def images_of(location: RunLocation):
    return {image.image_id: image for image in iter_annotations(OpenRun.at(location).shards())}


def problems(location: RunLocation) -> set[tuple[int | None, str]]:
    return {(each.shard, each.what) for each in verify_run(location).problems}


def square(top: int, left: int, side: int) -> np.ndarray:
    return box_mask((left, top, left + side, top + side), (HEIGHT, WIDTH))


def mend(results) -> None:
    """Say something else of the first mask, draw the second anew, delete the third, add a fourth, deny another."""
    first, third = (mask_of(results, number)["id"] for number in (0, 2))
    texts_of(results, first)[:] = ["A  new Text.", "a thing"]
    mask_of(results, 1)["value"]["rle"] = spelt_strokes(square(1, 1, 5))
    deleted(results, third)
    shared = {**mask_of(results, 0), "id": "Xy12_new"}
    points = [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in ((0, 0), (4, 0), (4, 3), (0, 3))]
    results.append({**shared, "type": "polygonlabels", "value": {"points": points, "polygonlabels": ["object"]}})
    results.append({**shared, "type": "textarea", "from_name": "text", "value": {"text": ["the corner"]}})
    (absent,) = [each for each in results if each["from_name"] == "absent"]
    absent["value"]["text"] = ["a blue fork"]


def test_rows_of_corrected_images_are_the_persons_and_all_others_stay(parent, tasks, correct):
    summary, out = correct([submitted(tasks[THREE], mend), submitted(tasks[PAIR]), tasks[ONE] | {"annotations": []}])
    assert dict(summary.num_tasks) == {"corrected": 1, "accepted as they are": 1}
    before, after = images_of(parent.location), images_of(out)
    assert [after[each] for each in (PAIR, ONE)] == [before[each] for each in (PAIR, ONE)]
    masks = after[THREE].masks
    # The first mask keeps its row. The second and the new one have ids that no mask had.
    assert [mask.index for mask in masks] == [0, 3, 4]
    assert [mask.prior for mask in masks] == ["none", "human:1", "human:1"]
    found = [decode([mask.rle_counts], (HEIGHT, WIDTH))[0] for mask in masks]
    assert np.array_equal(found[0], parent.truth[0].masks[0].pixels)
    assert np.array_equal(found[1], square(1, 1, 5))
    assert found[2].sum() == 12
    said = [each for mask in masks for each in mask.expressions] + list(after[THREE].untargeted)
    due = ["a new text", "a thing", "a thing", 'the "middle" thing', "the corner", "a blue fork"]
    assert [each.text for each in said] == due
    # Expressions of several masks, of which one is gone, are gone too, and counted.
    assert summary.left_out["expressions of several masks, one of which was changed"] == 2
    assert {(each.source, each.kept, len(each.target_mask_ids)) for each in said} == {
        ("human", True, 1),
        ("human", True, 0),
    }
    assert problems(out) <= problems(parent.location)
    mine, theirs = list(latest_receipts(out)), list(latest_receipts(parent.location))
    assert [a.parts == b.parts for a, b in zip(mine, theirs, strict=True)] == [False, True, True, True, True]
    header = require_header(out)
    assert header.parent.location == parent.location.root
    assert not header.is_human
    with pytest.raises(ConfigError, match="not human annotation"):
        HumanTruth.read(out)


def test_what_is_published_of_a_corrected_run_says_that_a_person_corrected_it(tasks, correct, tmp_path):
    _, out = correct([submitted(tasks[ONE], lambda results: results.clear())])
    refiltered = RunLocation.open(str(tmp_path / "refiltered"))
    refilter(out, refiltered, RuleChange(tau=0.5))
    for run in (out, refiltered):
        published = RunLocation.open(f"{run.root}-published")
        export("hf", BuiltRun(run, require_header(run), ()), published)
        card, readme = (place.read_bytes(name).decode() for place, name in ((run, CARD_NAME), (published, "README.md")))
        assert "A person corrected some masks or expressions. If" in card
        assert "| who corrected some masks or expressions, how |" in card
        assert "| annotation |" not in card
        assert "- machine-generated\n" in card
        assert "A person corrected some of them. pseudoris made the others after" in readme
        assert "and a person corrected some (origin: " in published.read_bytes("croissant.json").decode()
        assert not any(re.search("No human|no person", text) for text in (card, readme))


def expressions_of(location: RunLocation, image: str) -> list:
    """Return each once, by its first mask."""
    found = images_of(location)[image]
    of_masks = [(each, mask.mask_id) for mask in found.masks for each in mask.expressions]
    return [each for each, mask in of_masks if each.target_mask_ids[0] == mask] + list(found.untargeted)


def test_a_text_that_is_changed_takes_the_expressions_of_its_mask_alone(parent, tasks, correct):
    def reword(results) -> None:
        texts_of(results, mask_of(results, 0)["id"])[:] = ["a thing", "another"]

    summary, out = correct([submitted(tasks[THREE], reword)])
    before, after = (expressions_of(location, THREE) for location in (parent.location, out))
    own = before[0].target_mask_ids
    stays, others = ([each for each in said if each.target_mask_ids != own] for said in (after, before))
    assert stays == others
    said = {(each.text, each.source) for each in after if each.target_mask_ids == own}
    assert said == {("a thing", "human"), ("another", "human")}
    gone = {"expressions that were deleted or reworded": 1, "scores of expressions that stay, in corrected images": 1}
    assert summary.left_out == gone
    assert problems(out) <= problems(parent.location)


def test_a_mask_that_is_changed_takes_the_expressions_of_several_that_refer_to_it_alone(parent, tasks, correct):
    """Of "both things", "all of them" and what each mask is called, which the person saw, the first stays too."""

    def draw(results) -> None:
        mask_of(results, 2)["value"]["rle"] = spelt_strokes(square(1, 1, 5))

    summary, out = correct([submitted(tasks[THREE], draw)])
    before, after = (expressions_of(location, THREE) for location in (parent.location, out))
    gone = {each.text for each in before} - {each.text for each in after}
    assert gone == {"all of them"}
    (pair,) = [each for each in before if each.text == "both things"]
    assert pair in after
    assert summary.left_out["expressions of several masks, one of which was changed"] == 1
    assert problems(out) <= problems(parent.location)


def test_an_image_whose_masks_were_all_deleted_is_empty_and_only_the_same_file_continues(parent, tasks, correct):
    project = [submitted(tasks[ONE], lambda results: results.clear())]
    summary, out = correct(project)
    assert images_of(out)[ONE].masks == ()
    assert (summary.totals.annotated, summary.totals.empty) == (2, 2)
    assert problems(out) <= problems(parent.location)
    assert correct(project)[0].num_shards_before == 5
    with pytest.raises(ConfigError, match="another identity"):
        correct([submitted(tasks[THREE], mend)])


REWORDED, OTHERS = "by the one that counts", "by the other one"
SUBMITTED = ("2026-11-27T10:00:00Z", "2026-11-28T10:00:00Z")


@pytest.mark.parametrize(
    ("ours", "other", "is_ours"),
    [
        ({"updated_at": SUBMITTED[1]}, {"updated_at": SUBMITTED[0]}, True),
        ({"updated_at": SUBMITTED[0]}, {"updated_at": SUBMITTED[1]}, False),
        ({"updated_at": SUBMITTED[0], "ground_truth": True}, {"updated_at": SUBMITTED[1]}, True),
        ({"updated_at": SUBMITTED[1], "was_cancelled": True}, {"updated_at": SUBMITTED[0]}, False),
    ],
)
def test_of_several_annotations_a_ground_truth_counts_then_the_latest_and_no_skipped_one(
    ours, other, is_ours, tasks, correct
):
    task = submitted(tasks[ONE])
    given = []
    for number, (text, fields) in enumerate(((REWORDED, ours), (OTHERS, other)), start=1):
        results = json.loads(json.dumps(task["annotations"][0]["result"]))
        texts_of(results, mask_of(results, 0)["id"])[:] = [text]
        given.append(annotation(results, number, **fields))
    _, out = correct([{**task, "annotations": given}])
    texts = [each.text for each in images_of(out)[ONE].masks[0].expressions]
    assert texts == [REWORDED if is_ours else OTHERS]


OTHER = "0123456789abcdef"


def renamed(task, image: str):
    url = task["data"]["image"]
    return submitted(task) | {"data": {"image": f"{url[: url.rindex('_')]}_{image}.jpg" if image == OTHER else "x.jpg"}}


def first(**changes):
    """Return what submits a task with a change of its first result."""
    return given(lambda results: results[0].update(changes))


def given(change):
    return lambda task: [submitted(task, change)]


AS_JSON = r"as JSON \(not JSON-MIN\)"
BAD = {
    "another image": (lambda task: [renamed(task, OTHER)], rf"lacks 1 of them, such as {OTHER}\. Give the run that"),
    "another size": (first(original_width=9), r"image \w{16}, result 0 is of an image of 12 x 9.*Give the run"),
    "a picture of something else": (
        lambda task: [renamed(task, "x")],
        "shows .*x.jpg.*`pseudoris export --format label-studio`",
    ),
    "JSON-MIN": (
        lambda task: [{"id": 1, "image": task["data"]["image"], "mask": []}],
        rf"ana\.json\[0\]\['data'\]\['image'\]: Field required.*{AS_JSON}",
    ),
    "nothing done": (lambda task: [task | {"annotations": []}], "has no annotation. Submit some tasks"),
    "an object": (lambda task: {"tasks": []}, rf"ana\.json: Input should be a valid array.*{AS_JSON}"),
    "half a file": (lambda task: b'[{"data"', rf"ana\.json: Invalid JSON.*{AS_JSON}"),
    "a rectangle": (first(type="rectanglelabels"), "is 'rectanglelabels'. Only brushes, polygons and texts.*Delete it"),
    "a turned image": (first(image_rotation=90), "rotated image. Turn it back"),
    "strokes of a huge image": (
        given(lambda results: results[0]["value"]["rle"].__setitem__(0, 255)),
        "do not have the size",
    ),
    "broken strokes": (
        given(lambda results: results[0]["value"]["rle"].__delitem__(slice(12, None))),
        "do not fill the image.*Draw it again",
    ),
    "a text that is none": (
        given(lambda results: results[1]["value"].update(text=[7])),
        r"\['text'\]\[0\]: Input should be a valid string, got 7",
    ),
    "a relation": (
        given(lambda results: results.append({"type": "relation"})),
        "'relation'. Only brushes, polygons and texts.*Delete it",
    ),
    "an id twice": (given(lambda results: results.append(results[0])), "second mask with the id"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_file_of_other_images_or_a_damaged_one_is_refused_before_anything_is_written(bad, tasks, correct, tmp_path):
    make, told = BAD[bad]
    with pytest.raises(ConfigError, match=told):
        correct(make(tasks[ONE]))
    assert not (tmp_path / "out").exists()


SDK_SIDE = Path(__file__).with_name("sdk_annotator.py")


@pytest.mark.long
def test_label_studios_own_sdk_validates_the_tasks_and_its_annotation_comes_back(parent, tmp_path, correct, sdk_python):
    folder = tmp_path / "export"
    export("label-studio", parent, RunLocation.open(str(folder)))
    sdk_python(SDK_SIDE, folder, tmp_path / "sdk.json")
    summary, out = correct((tmp_path / "sdk.json").read_bytes())
    assert dict(summary.num_tasks) == {"corrected": 1, "accepted as they are": 1, "skipped": 1}
    before, after = images_of(parent.location), images_of(out)
    (changed,) = [image for image in after if after[image] != before[image]]
    first = after[changed].masks[-1]
    assert first.prior.startswith("human:")
    assert np.array_equal(decode([first.rle_counts], (HEIGHT, WIDTH))[0], square(2, 3, 6))
    assert [each.text for each in first.expressions] == ["what the sdk says"]
    assert problems(out) <= problems(parent.location)


@pytest.fixture(scope="module")
def sdk_python(tmp_path_factory):
    """Run a script with label-studio-sdk, in an environment of its own: it needs an older OpenCV than LISA's loader."""
    folder = tmp_path_factory.mktemp("sdk")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin/python")
    quiet = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([python, *quiet, "label-studio-sdk==2.1.2"], check=True)
    yield lambda *words: subprocess.run([python, "-I", *map(str, words)], check=True)
    shutil.rmtree(folder)
