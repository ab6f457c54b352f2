"""PhraseCut's tasks: phrases of several instances, equal instances, splits, and files that are none."""

from __future__ import annotations

import json
from functools import partial

import pytest

from pseudoris.interchange.imports.annotation_files import read_phrasecut
from pseudoris.interchange.imports.human_annotation import HumanPhrase
from pseudoris.interchange.imports.import_run import WITHOUT_PIXELS
from pseudoris.schemas.errors import ConfigError
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.location import RunLocation
from tests.builders.human import write_images
from tests.builders.imports import import_small, read_files
from tests.builders.tables import read_table

# Points [x, y] on images of 24 x 32 pixels.
LEFT = [[2, 3], [8, 3], [8, 9], [2, 9]]
RIGHT = [[20, 5], [28, 5], [28, 20], [20, 20]]
PART = [[20, 21], [22, 21], [22, 23], [20, 23]]


def task(number: int, image: int, phrase: str, *instances: list) -> dict:
    """A task with the keys of the dataset; each instance is a list of polygons."""
    boxes = [[0, 0, 9, 9] for _ in instances]
    structure = {"name": phrase, "attributes": [], "relation_ids": [], "relation_descriptions": [], "type": "name"}
    ids = {"task_id": f"{image}__{number}", "image_id": image, "ann_ids": [number]}
    return {
        **ids,
        "instance_boxes": boxes,
        "Polygons": instances,
        "phrase": phrase,
        "phrase_structure": structure,
    }


def document(*tasks: dict) -> bytes:
    return json.dumps(tasks).encode()


@pytest.fixture
def disk(tmp_path):
    return RunLocation.open(str(tmp_path / "out"))


@pytest.fixture
def dataset(tmp_path):
    """The folder of two splits, and the images 7 and 8; image 9 is missing."""
    folder = tmp_path / "VGPhraseCut_v0"
    folder.mkdir()
    several = [task(1, 7, "Windows.", [LEFT], [RIGHT, PART]), task(2, 7, "left window", [LEFT])]
    (folder / "refer_test.json").write_bytes(document(*several, task(3, 9, "dog", [LEFT])))
    (folder / "refer_miniv.json").write_bytes(
        document(task(4, 8, "far away", [[[90, 90], [99, 90], [99, 99]]], [LEFT]))
    )
    return folder, write_images(tmp_path / "images", "7.jpg", "8.jpg")


def test_what_is_no_question_is_left_out_and_counted():
    few = task(3, 7, "line", [LEFT, [[1, 1], [5, 5]]], [LEFT])
    found = read_phrasecut({"x.json": document(task(1, 7, "a"), task(2, 7, "b", [LEFT]), task(2, 7, "b", [LEFT]), few)})
    assert found.images[0].phrases == (HumanPhrase((0,), "b"), HumanPhrase((0,), "line"))
    assert found.left_out == {
        "phrases without an instance": 1,
        "repeated phrases of the same instances": 1,
        "polygons of fewer than three points": 1,
    }


def test_an_import_is_a_run_whose_groups_have_several_targets_and_a_split(dataset, disk):
    folder, images = dataset
    summary = import_small(folder, images, disk, format="phrasecut", splits=("test", "miniv"))
    assert verify_run(disk).is_clean
    rows = read_table(disk, "expressions").to_pylist()
    keys = {row["image_id"]: row["key"] for row in read_table(disk, "images").to_pylist()}
    said = [
        (keys[row["image_id"]], row["text"], row["kind"], len(row["target_mask_ids"]), row["split"]) for row in rows
    ]
    assert said == [
        ("7.jpg", "windows", "group", 2, "test"),
        ("7.jpg", "left window", "attribute", 1, "test"),
        # Of its instances one is outside of the image.
        ("8.jpg", "far away", "attribute", 1, "miniv"),
    ]
    areas = {row["mask_id"]: row["area_px"] for row in read_table(disk, "masks").to_pylist()}
    assert [areas[target] for target in rows[0]["target_mask_ids"]] == [36, 124]
    assert (summary.left_out[WITHOUT_PIXELS], summary.totals.reasons) == (1, {"missing": 1})


def test_a_file_is_the_split_that_its_name_says_and_splits_are_chosen_in_the_folder(dataset):
    folder, _ = dataset
    read = partial(read_files, format="phrasecut")
    assert read(folder / "refer_miniv.json").images[0].phrases[0].split == "miniv"
    assert set(read(folder, splits=("test",)).digests) == {"refer_test.json"}
    with pytest.raises(
        ConfigError, match=r"refer_train\.json does not exist\. PhraseCut has refer_train\.json, refer_val"
    ):
        read(folder)
    for split in ("miniv", "train"):
        with pytest.raises(ConfigError, match=r"is the file of one split\. Leave --split out, or give its folder"):
            read(folder / "refer_test.json", splits=(split,))
    with pytest.raises(ConfigError, match=r"is not COCO JSON\. .* For PhraseCut give --format phrasecut"):
        read_files(folder / "refer_test.json", format="coco")


def test_polygons_that_are_no_numbers_quarantine_their_image(dataset, disk):
    folder, images = dataset
    (folder / "refer_train.json").write_bytes(
        document(task(1, 7, "a", [[["x", 1], [2, 2], [3, 3]]]), task(2, 8, "b", [LEFT]))
    )
    assert import_small(folder, images, disk, format="phrasecut").totals.reasons == {"annotation_damaged": 1}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "t.json cannot be read as JSON"),
        (b'{"images": []}', "t.json is not a list of PhraseCut's tasks"),
        (b"[1]", "t.json is not a list of PhraseCut's tasks"),
        (document(task(1, "../7", "a", [LEFT])), "t.json: task 0 has the image_id '../7'. A whole number"),
        (b'[{"image_id": 7, "phrase": "a"}]', "no Polygons. Files refer_input_… are questions alone"),
        (document(task(1, 7, "a", LEFT)), r"task 0 has Polygons of another form than \[instance\]"),
        (
            document(task(1, 7, 3, [LEFT])),
            "task 0 has the expression 3. An expression must be a UTF-8 text",
        ),
    ],
)
def test_a_file_of_another_form_is_refused_with_its_place(data, message):
    with pytest.raises(ConfigError, match=message):
        read_phrasecut({"t.json": data})
