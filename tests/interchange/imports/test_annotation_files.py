"""REFER and gRefCOCO: which files an annotation is, on a disk and in a bucket, and what is read of them."""

from __future__ import annotations

import json
import pickle
import re
from functools import partial

import pytest

from pseudoris.files.location import RunLocation
from pseudoris.interchange.dataset import RisDataset, SampleSpec
from pseudoris.interchange.imports.annotation_files import read_gref, read_phrasecut, read_refer
from pseudoris.interchange.imports.human_annotation import HumanPhrase
from pseudoris.interchange.imports.import_run import WITHOUT_PIXELS
from pseudoris.primitives.errors import ConfigError
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.tables.open_run import OpenRun
from pseudoris.training.evaluation.held_out import HeldOutExpressions
from tests.builders.human import document, image_row, object_row, reference, texts_of, write_images, write_small_refer
from tests.builders.imports import import_small, read_files
from tests.builders.runs import part_digests
from tests.builders.sources import write_files

IMAGES = [image_row(7, "a.png"), image_row(8, "sub/b.png")]
OBJECTS = [object_row(70, 7), object_row(71, 7, (15, 10, 25, 20)), object_row(80, 8), object_row(81, 8)]


@pytest.fixture
def dataset(tmp_path):
    return write_small_refer(tmp_path)[0]


def test_of_several_files_of_references_one_is_chosen(dataset):
    (dataset / "refs(google).p").write_bytes((dataset / "refs(unc).p").read_bytes())
    chosen = r"has refs\(google\)\.p, refs\(unc\)\.p\. Choose one: give the name in its brackets as --split-by"
    with pytest.raises(ConfigError, match=chosen):
        read_files(dataset)
    assert set(read_files(dataset, split_by="google").digests) == {"refs(google).p", "instances.json"}
    with pytest.raises(ConfigError, match=r"refs\(google\)\.p"):
        read_files(dataset, split_by="umd")
    with pytest.raises(ConfigError, match="is a file, and --split-by chooses a file of a folder"):
        read_files(dataset / "refs(unc).p", split_by="unc")


def test_what_is_missing_is_named(dataset, tmp_path):
    with pytest.raises(ConfigError, match="nowhere' does not exist"):
        read_files(tmp_path / "nowhere")
    beside = r"no refs\(<splitBy>\)\.p, which a REFER dataset has beside instances\.json"
    remedy = r"Name the folder that holds it; .* the \.json file itself; .* --format phrasecut, grefcoco or reasonseg"
    with pytest.raises(ConfigError, match=rf"ANNOTATION {re.escape(str(tmp_path))} has {beside}\. {remedy}"):
        read_files(tmp_path)
    with pytest.raises(ConfigError, match=r"is a folder\. Name the JSON file in it"):
        read_files(dataset, format="coco")
    (dataset / "instances.json").unlink()
    with pytest.raises(ConfigError, match=r"instances\.json does not exist. A REFER dataset has"):
        read_files(dataset)


@pytest.mark.long
def test_all_from_and_into_a_bucket_has_the_bytes_of_an_import_between_disks(tmp_path, s3_server, s3_bucket):
    annotation, images = write_small_refer(tmp_path)
    uris = [s3_server.put_folder(folder, s3_bucket, folder.name) for folder in (annotation, images)]
    s3_server.client().delete_object(Bucket=s3_bucket, Key="images/train2014/3.png")
    words = ("shards.embed_images=true", f"source.endpoint_url={s3_server.endpoint_url}")
    location = RunLocation.open(f"s3://{s3_bucket}/out", s3_server.endpoint_url)
    summary = import_small(*uris, location, *words)
    assert (summary.totals.annotated, summary.totals.reasons) == (4, {"missing": 1})
    assert verify_run(location).is_clean
    again = import_small(*uris, location, *words)
    assert again.num_shards_before == 3

    (images / "train2014/3.png").unlink()
    on_disk = RunLocation.open(str(tmp_path / "out"))
    import_small(annotation, images, on_disk, "shards.embed_images=true")
    names = {digest for digest in part_digests(tmp_path / "out")}
    stored = {f"{table}/{file.name}" for table in ("images", "masks", "expressions") for file in location.list(table)}
    assert stored | {name for name in names if name.startswith("failures")} == names
    assert (
        OpenRun.at(location).table("images")["key"].to_pylist()
        == OpenRun.at(on_disk).table("images")["key"].to_pylist()
    )


def read_references(refs, *, splits=("train",)):
    return read_refer(pickle.dumps(refs, 2), document(IMAGES, OBJECTS), refs_name="refs(unc).p", splits=splits)


def texts(annotation) -> dict[tuple[str, int], tuple[str, ...]]:
    return {
        (image.path, mask.annotation_id): texts_of(image, mask) for image in annotation.images for mask in image.masks
    }


def test_the_objects_of_a_split_are_read_with_what_is_said_of_them():
    refs = [reference(1, 71, 7, "the cat", "left cat"), reference(2, 80, 8, "a dog", split="val")]
    found = read_references(refs)
    assert texts(found) == {("a.png", 71): ("the cat", "left cat")}
    (image,) = found.images
    assert (image.size, image.masks[0].index, image.masks[0].segmentation) == ((24, 32), 1, OBJECTS[1]["segmentation"])
    assert texts(read_references(refs, splits=("train", "val"))) == {
        ("a.png", 71): ("the cat", "left cat"),
        ("sub/b.png", 80): ("a dog",),
    }


def test_sent_is_read_and_raw_where_it_is_missing():
    ref = reference(1, 70, 7, "the cat")
    ref["sentences"] += [{"sent_id": 2, "raw": "A Dog. "}, {"sent_id": 3, "sent": "a cow", "raw": "Not This"}]
    assert texts(read_references([ref])) == {("a.png", 70): ("the cat", "a dog", "a cow")}


def test_texts_are_written_as_the_tables_write_them_and_what_is_left_out_is_counted():
    found = read_references(
        [reference(1, 70, 7, "THE  CAT. ", "", " . ", "the cat"), reference(2, 70, 7, "The cat", "black cat")]
    )
    assert texts(found) == {("a.png", 70): ("the cat", "black cat")}
    assert found.left_out == {
        "expressions without a letter": 2,
        "repeated expressions of one mask": 2,
        "objects without a reference in these splits": 3,
    }


def test_short_sent_ids_lose_no_sentence_and_the_references_own_file_name_is_ignored():
    found = read_references([reference(1, 70, 7, "the cat", "left cat", sent_ids=[10], file_name="../../etc/passwd")])
    assert texts(found) == {("a.png", 70): ("the cat", "left cat")}


def test_masks_stand_in_the_order_of_the_instances_whatever_the_order_of_references():
    refs = [reference(1, 81, 8, "one"), reference(2, 70, 7, "two"), reference(3, 80, 8, "three")]
    assert list(texts(read_references(refs))) == list(texts(read_references(refs[::-1])))


@pytest.mark.parametrize(
    ("refs", "message"),
    [
        ({"train": []}, "has an object. A list of references"),
        (["a reference"], "reference 0 has no split"),
        ([], r"no reference of split 'train'. Its splits are none"),
        (
            [reference(1, 70, 7, "x", split="val")],
            r"no reference of split 'train'. Its splits are val \(1\). Choose one with --split",
        ),
        ([reference(1, 99, 7, "x")], r"reference 0 names ann_id 99, which is not in instances\.json"),
        ([reference(1, "70", 7, "x")], "names ann_id '70', which"),
        ([reference(1, [70], 7, "x")], "names ann_id a list, which"),
        ([reference(1, 70, 8, "x")], "names image_id 8, but its annotation 70 belongs to another image"),
        ([reference(1, 70, [7], "x")], "names image_id a list, which is not in instances"),
        ([reference(1, 70, 7, sentences="the cat")], "has the sentences 'the cat'. A list of dicts"),
        (
            [reference(1, 70, 7, sentences=[{"sent": None}])],
            "annotation 70 has the expression nothing. An expression must be a UTF-8 text",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place_and_the_remedy(refs, message):
    with pytest.raises(ConfigError, match=message):
        read_references(refs)


def test_every_split_that_is_asked_for_must_be_there():
    with pytest.raises(ConfigError, match="no reference of split 'testA'"):
        read_references([reference(1, 70, 7, "x")], splits=("train", "testA"))


# gRefCOCO: references of one object, of several, and of none, with the masks that they name.


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
def grefs(tmp_path):
    files = {"grefs(unc).json": json.dumps(REFS).encode(), "instances.json": document(IMAGES, OBJECTS)}
    return write_files(tmp_path / "grefcoco", files), write_images(tmp_path / "images", "a.png", "sub/b.png")


def test_several_ids_are_a_group_and_minus_one_is_none(grefs, location):
    folder, images = grefs
    summary = import_small(folder, images, location, format="grefcoco", splits=("train", "testA"))
    rows = OpenRun.at(location).table("expressions").to_pylist()
    assert [(row["text"], row["kind"], len(row["target_mask_ids"]), row["split"]) for row in rows] == [
        ("cup and plate", "group", 2, "train"),
        ("both things", "group", 2, "train"),
        ("green fork", "none", 0, "train"),
        ("cup", "attribute", 1, "train"),
        ("the third plate", "none", 0, "testA"),
    ]
    assert all(row["source"] == "human" and row["kept"] for row in rows)
    # An image of which only none is said has no mask, and is asked all the same.
    assert [row["area_px"] for row in OpenRun.at(location).table("masks").to_pylist()] == [48, 100]
    assert dict(summary.left_out) == {
        "objects without a reference in these splits": 2,
        "repeated expressions of one mask": 1,
    }
    assert verify_run(location).problems == ()
    questions = HeldOutExpressions(location.root, {str(images): str(images)}, has_groups=True)
    assert [[len(targets) for targets in image.targets] for image in questions.images] == [[2, 2, 0, 1], [0]]
    served = [each["num_masks"] for each in RisDataset(location, SampleSpec(parts=("text",), groups=True, none=0.5))]
    assert sorted(served) == [0, 0, 1, 2]


def test_the_folder_the_file_and_the_split_by_lead_to_the_same(grefs):
    folder, _ = grefs
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
        (gref(1, [-1], 5, "a"), r"names image_id 5, which is not in instances"),
    ],
)
def test_ids_that_gref_cannot_have_are_refused_with_their_place(ref, message):
    with pytest.raises(ConfigError, match=message):
        read_gref(json.dumps([ref]).encode(), document(IMAGES, OBJECTS), refs_name="grefs.json", splits=("train",))


def test_a_group_of_which_no_mask_has_a_pixel_is_no_expression_of_none(grefs, location):
    folder, images = grefs
    objects = [object_row(80, 8, (40, 40, 50, 50)), object_row(81, 8)]
    (folder / "instances.json").write_bytes(document(IMAGES, objects))
    said = [gref(1, [80], 8, "gone"), gref(2, [81], 8, "there"), gref(3, [80, 81], 8, "there")]
    (folder / "grefs(unc).json").write_text(json.dumps(said))
    import_small(folder, images, location, format="grefcoco")
    rows = OpenRun.at(location).table("expressions").to_pylist()
    # Said of two masks, one without a pixel, it is said of the other one, which has it already.
    assert [row["text"] for row in rows] == ["there"]
    assert verify_run(location).is_clean


# PhraseCut's tasks: phrases of several instances, equal instances, splits, and files that are none.


# Points [x, y] on images of 24 x 32 pixels.
LEFT = [[2, 3], [8, 3], [8, 9], [2, 9]]
RIGHT = [[20, 5], [28, 5], [28, 20], [20, 20]]
PART = [[20, 21], [22, 21], [22, 23], [20, 23]]


def task(number: int, image: int, phrase: str, *instances: list) -> dict:
    """Return a task with keys of the dataset; each instance is a list of polygons."""
    ids = {"task_id": f"{image}__{number}", "image_id": image, "ann_ids": [number]}
    return {**ids, "instance_boxes": [[0, 0, 9, 9]] * len(instances), "Polygons": instances, "phrase": phrase}


def tasks_json(*tasks: dict) -> bytes:
    return json.dumps(tasks).encode()


@pytest.fixture
def phrases(tmp_path):
    """The folder of two splits, and the images 7 and 8; image 9 is missing."""
    several = [task(1, 7, "Windows.", [LEFT], [RIGHT, PART]), task(2, 7, "left window", [LEFT])]
    files = {
        "refer_test.json": tasks_json(*several, task(3, 9, "dog", [LEFT])),
        "refer_miniv.json": tasks_json(task(4, 8, "far away", [[[90, 90], [99, 90], [99, 99]]], [LEFT])),
    }
    return write_files(tmp_path / "VGPhraseCut_v0", files), write_images(tmp_path / "images", "7.jpg", "8.jpg")


def test_what_is_no_question_is_left_out_and_counted():
    few = task(3, 7, "line", [LEFT, [[1, 1], [5, 5]]], [LEFT])
    said = tasks_json(task(1, 7, "a"), task(2, 7, "b", [LEFT]), task(2, 7, "b", [LEFT]), few)
    # The tasks of miniv are among those of val.
    found = read_phrasecut({"refer_val.json": said, "refer_miniv.json": tasks_json(task(2, 7, "b", [LEFT]))})
    assert found.images[0].phrases == (HumanPhrase((0,), "b", "val"), HumanPhrase((0,), "line", "val"))
    assert found.left_out == {
        "phrases without an instance": 1,
        "repeated phrases of the same instances": 2,
        "polygons of fewer than three points": 1,
    }


def test_an_import_is_a_run_whose_groups_have_several_targets_and_a_split(phrases, location):
    folder, images = phrases
    summary = import_small(folder, images, location, format="phrasecut", splits=("test", "miniv"))
    assert verify_run(location).is_clean
    rows = OpenRun.at(location).table("expressions").to_pylist()
    keys = {row["image_id"]: row["key"] for row in OpenRun.at(location).table("images").to_pylist()}
    assert [(keys[r["image_id"]], r["text"], r["kind"], len(r["target_mask_ids"]), r["split"]) for r in rows] == [
        ("7.jpg", "windows", "group", 2, "test"),
        ("7.jpg", "left window", "attribute", 1, "test"),
        # Of its instances one is outside of the image.
        ("8.jpg", "far away", "attribute", 1, "miniv"),
    ]
    areas = {row["mask_id"]: row["area_px"] for row in OpenRun.at(location).table("masks").to_pylist()}
    assert [areas[target] for target in rows[0]["target_mask_ids"]] == [36, 124]
    assert (summary.left_out[WITHOUT_PIXELS], summary.totals.reasons) == (1, {"missing": 1})


def test_a_file_is_the_split_that_its_name_says_and_splits_are_chosen_in_the_folder(phrases):
    folder, _ = phrases
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


def test_polygons_that_are_no_numbers_quarantine_their_image(phrases, location):
    folder, images = phrases
    (folder / "refer_train.json").write_bytes(
        tasks_json(task(1, 7, "a", [[["x", 1], [2, 2], [3, 3]]]), task(2, 8, "b", [LEFT]))
    )
    assert import_small(folder, images, location, format="phrasecut").totals.reasons == {"annotation_damaged": 1}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "t.json cannot be read as JSON"),
        (b'{"images": []}', "t.json is not a list of PhraseCut's tasks"),
        (b"[1]", "t.json is not a list of PhraseCut's tasks"),
        (tasks_json(task(1, "../7", "a", [LEFT])), "t.json: task 0 has the image_id '../7'. A whole number"),
        (b'[{"image_id": 7, "phrase": "a"}]', "no Polygons. Files refer_input_… are questions alone"),
        (tasks_json(task(1, 7, "a", LEFT)), r"task 0 has Polygons of another form than \[instance\]"),
        (tasks_json(task(1, 7, 3, [LEFT])), "task 0 has the expression 3. An expression must be a UTF-8 text"),
    ],
)
def test_a_file_of_another_form_is_refused_with_its_place(data, message):
    with pytest.raises(ConfigError, match=message):
        read_phrasecut({"t.json": data})
