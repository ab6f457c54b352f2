"""gRefCOCO: references of one object, of several, and of none, with the masks that they name."""

from __future__ import annotations

import json
from functools import partial

import pytest

from pseudoris.interchange.dataset import RisDataset, SampleSpec
from pseudoris.interchange.imports.annotation_files import read_gref
from pseudoris.schemas.errors import ConfigError
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.location import RunLocation
from pseudoris.training.evaluation.held_out import HeldOutExpressions
from tests.builders.human import document, image_row, object_row, reference, write_images
from tests.builders.imports import read_files
from tests.builders.tables import read_table

IMAGES = [image_row(7, "a.png"), image_row(8, "b.png")]
OBJECTS = [object_row(70, 7), object_row(71, 7, (15, 10, 25, 20)), object_row(80, 8), object_row(81, 8)]


def gref(number, ids, image, *sents, **changes):
    """Return a reference as gRefCOCO has it: ids and categories are lists."""
    return reference(number, ids, image, *sents, category_id=[1 if each > 0 else -1 for each in ids], **changes)


REFS = [
    gref(1, [71, 70], 7, "cup and plate", "both things"),
    gref(2, [-1], 7, "green fork"),
    gref(3, [70], 7, "cup", "cup"),
    gref(4, [80], 8, "seen later", split="val"),
    gref(5, [-1], 8, "the third plate", split="testA"),
]


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "grefcoco"
    folder.mkdir()
    (folder / "grefs(unc).json").write_text(json.dumps(REFS))
    (folder / "instances.json").write_bytes(document(IMAGES, OBJECTS))
    return folder, write_images(tmp_path / "images", "a.png", "b.png")


def read(refs, *splits):
    return read_gref(
        json.dumps(refs).encode(), document(IMAGES, OBJECTS), refs_name="grefs(unc).json", splits=splits or ("train",)
    )


def test_several_ids_are_a_group_and_minus_one_is_none(dataset, imported, tmp_path):
    folder, images = dataset
    summary = imported(folder, images, format="grefcoco", splits=("train", "testA"))
    run = RunLocation.open(str(tmp_path / "out"))
    rows = read_table(run, "expressions").to_pylist()
    assert [(row["text"], row["kind"], len(row["target_mask_ids"]), row["split"]) for row in rows] == [
        ("cup and plate", "group", 2, "train"),
        ("both things", "group", 2, "train"),
        ("green fork", "none", 0, "train"),
        ("cup", "attribute", 1, "train"),
        ("the third plate", "none", 0, "testA"),
    ]
    assert all(row["source"] == "human" and row["kept"] for row in rows)
    # An image of which only none is said has no mask, and is asked all the same.
    assert [row["area_px"] for row in read_table(run, "masks").to_pylist()] == [48, 100]
    assert dict(summary.left_out) == {
        "objects without a reference in these splits": 2,
        "repeated expressions of one mask": 1,
    }
    assert verify_run(run).problems == ()
    questions = HeldOutExpressions(run.root, {str(images): str(images)}, has_groups=True)
    assert [[len(targets) for targets in image.targets] for image in questions.images] == [[2, 2, 0, 1], [0]]
    served = [each["num_masks"] for each in RisDataset(run, SampleSpec(parts=("text",), groups=True, none=0.5))]
    assert sorted(served) == [0, 0, 1, 2]


def test_the_folder_the_file_and_the_split_by_lead_to_the_same(dataset):
    folder, _ = dataset
    files = partial(read_files, format="grefcoco")
    assert files(folder) == files(folder / "grefs(unc).json") == files(folder, split_by="unc")
    (folder / "grefs(unc).p").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"is neither gRefCOCO's folder, nor its grefs\(…\)\.json"):
        files(folder / "grefs(unc).p")
    (folder / "grefs(unc).json").unlink()
    with pytest.raises(ConfigError, match=r"has no grefs\(<splitBy>\)\.json, which gRefCOCO has beside"):
        files(folder)


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        (gref(1, [70], 7, "a") | {"ann_id": 70}, r"has the ann_id 70\. A list of ids is needed, \[-1\] for no object"),
        (gref(1, [], 7, "a"), r"A list of ids is needed"),
        (gref(1, [-1, 70], 7, "a"), r"names ann_id -1, which is not in instances\.json"),
        (gref(1, [99], 7, "a"), r"names ann_id 99, which is not in instances"),
        (gref(1, [80], 7, "a"), r"names image_id 7, but its annotation 80 belongs to another image"),
        (gref(1, [-1], 5, "a"), r"names image_id 5, which is not in instances"),
        (gref(1, [-1], 7, "a", sentences="a"), r"has the sentences 'a'"),
        (gref(1, [-1], 7, "a", split="val"), r"no reference of split 'train'\. Its splits are val \(1\)"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(ref, message):
    with pytest.raises(ConfigError, match=message):
        read([ref])


def test_a_group_of_which_no_mask_has_a_pixel_is_no_expression_of_none(dataset, imported, tmp_path):
    folder, images = dataset
    outside = [*OBJECTS[:2], object_row(80, 8, (40, 40, 50, 50)), object_row(81, 8)]
    (folder / "instances.json").write_bytes(document(IMAGES, outside))
    (folder / "grefs(unc).json").write_text(json.dumps([gref(1, [80], 8, "gone"), gref(2, [81], 8, "there")]))
    imported(folder, images, format="grefcoco")
    rows = read_table(RunLocation.open(str(tmp_path / "out")), "expressions").to_pylist()
    assert [row["text"] for row in rows] == ["there"]
