"""Which files an annotation is, on a disk and in a bucket."""

from __future__ import annotations

import pickle
import re

import pytest

from pseudoris.interchange.imports.annotation_files import read_refer
from pseudoris.schemas.errors import ConfigError
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.location import RunLocation
from tests.builders.human import document, image_row, object_row, reference, texts_of, write_small_refer
from tests.builders.imports import import_small, read_files
from tests.builders.runs import part_digests
from tests.builders.tables import read_table

IMAGES = [image_row(7, "a.png"), image_row(8, "sub/b.png")]
OBJECTS = [object_row(70, 7), object_row(71, 7), object_row(80, 8), object_row(81, 8)]


@pytest.fixture
def dataset(tmp_path):
    return write_small_refer(tmp_path)[0]


def test_of_several_files_of_references_one_is_chosen(dataset):
    (dataset / "refs(google).p").write_bytes((dataset / "refs(unc).p").read_bytes())
    with pytest.raises(
        ConfigError,
        match=r"has refs\(google\)\.p, refs\(unc\)\.p\. Choose one: give the name in its brackets as --split-by",
    ):
        read_files(dataset)
    assert set(read_files(dataset, split_by="google").digests) == {"refs(google).p", "instances.json"}
    with pytest.raises(ConfigError, match=r"refs\(google\)\.p"):
        read_files(dataset, split_by="umd")
    with pytest.raises(ConfigError, match="is a file, and --split-by chooses a file of a folder"):
        read_files(dataset / "refs(unc).p", split_by="unc")


def test_what_is_missing_is_named(dataset, tmp_path):
    with pytest.raises(ConfigError, match="nowhere' does not exist"):
        read_files(tmp_path / "nowhere")
    with pytest.raises(
        ConfigError,
        match=rf"ANNOTATION {re.escape(str(tmp_path))} has no refs\(<splitBy>\)\.p, which a REFER dataset has beside "
        r"instances\.json\. Name the folder that holds it; .* the \.json file itself; .* "
        r"--format phrasecut, grefcoco or reasonseg",
    ):
        read_files(tmp_path)
    with pytest.raises(ConfigError, match=r"is a folder\. Name the JSON file in it"):
        read_files(dataset, format="coco")
    (dataset / "instances.json").unlink()
    with pytest.raises(ConfigError, match=r"instances\.json does not exist. A REFER dataset has"):
        read_files(dataset)


@pytest.mark.long
def test_all_from_and_into_a_bucket_has_the_bytes_of_an_import_between_disks(tmp_path, s3_server, s3_bucket):
    annotation, images = write_small_refer(tmp_path)
    client = s3_server.client()
    for path in [*annotation.rglob("*"), *images.rglob("*.png")]:
        client.put_object(Bucket=s3_bucket, Key=str(path.relative_to(tmp_path)), Body=path.read_bytes())
    client.delete_object(Bucket=s3_bucket, Key="images/train2014/3.png")
    words = ("shards.embed_images=true", f"source.endpoint_url={s3_server.endpoint_url}")
    location = RunLocation.open(f"s3://{s3_bucket}/out", s3_server.endpoint_url)
    uris = f"s3://{s3_bucket}/refcoco", f"s3://{s3_bucket}/images"
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
    assert read_table(location, "images")["key"].to_pylist() == read_table(on_disk, "images")["key"].to_pylist()


def read_references(refs, *, images=IMAGES, objects=OBJECTS, splits=("train",), protocol=2):
    data = pickle.dumps(refs, protocol)
    return read_refer(data, document(images, objects), refs_name="refs(unc).p", splits=splits)


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
        ([{"ref_id": 1}], "reference 0 has no split"),
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
        ([reference(1, 70, 7, sentences=["the cat"])], "has the sentences a list"),
        (
            [reference(1, 70, 7, sentences=[{"sent": None}])],
            "annotation 70 has the expression nothing. An expression must be a UTF-8 text",
        ),
        ([reference(1, 70, 7, sentences=[{}])], "annotation 70 has the expression nothing"),
        ([reference(1, 70, 7, sentences=[{"sent": 5}])], "annotation 70 has the expression 5"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place_and_the_remedy(refs, message):
    with pytest.raises(ConfigError, match=message):
        read_references(refs)


def test_every_split_that_is_asked_for_must_be_there():
    with pytest.raises(ConfigError, match="no reference of split 'testA'"):
        read_references([reference(1, 70, 7, "x")], splits=("train", "testA"))
