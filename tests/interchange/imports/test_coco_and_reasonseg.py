"""COCO JSON with captions and ReasonSeg: what is read, how LISA paints its polygons, and JSON that was made to harm."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pseudoris.files.location import RunLocation
from pseudoris.interchange.imports.coco_annotation import read_coco
from pseudoris.interchange.imports.human_annotation import HumanImage, HumanMask, HumanPhrase, annotate_image
from pseudoris.interchange.imports.reason_annotation import filled, read_reason
from pseudoris.primitives import rle
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import ImagesConfig
from pseudoris.schemas.shard import ShardImage
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.tables.open_run import OpenRun
from tests.builders.human import HEIGHT, WIDTH, document, image_row, object_row, texts_of
from tests.builders.images import jpeg
from tests.builders.imports import import_small, read_files
from tests.builders.sources import write_files

IMAGES = [image_row(1, "a.png"), image_row("two", "sub/b.png")]


def read(images=IMAGES, annotations=()):
    return read_coco(document(images, annotations), "objects.json")


def test_all_images_and_their_objects_are_read_with_captions_where_they_have_some():
    found = read(
        annotations=[
            object_row(5, 1),
            object_row(6, "two", caption="A Cat."),
            object_row(7, 1, captions=["the dog", "dog"], caption="left dog"),
        ]
    )
    first, second = found.images
    assert (first.path, second.path) == ("a.png", "sub/b.png")
    assert [(mask.index, mask.annotation_id, texts_of(first, mask)) for mask in first.masks] == [
        (0, 5, ()),
        (1, 7, ("left dog", "the dog", "dog")),
    ]
    assert texts_of(second, second.masks[0]) == ("a cat",)


def captions(*pairs) -> bytes:
    rows = [
        {"id": n, "image_id": 1, "instance_id": instance, "caption": text} for n, (instance, text) in enumerate(pairs)
    ]
    return json.dumps({"images": [], "annotations": rows}).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (captions((9, "a")), r"annotations\[0\] is a caption of instance_id 9, which is not in the instances"),
        (captions((None, "a")), "instance_id nothing, .*Captions of whole images cannot be imported"),
        (captions(([5], "a")), "instance_id a list"),
        (captions((5, None)), "annotation 5 has the expression nothing"),
        (b'{"annotations": ["a"]}', "instance_id nothing"),
        (b"[]", "said.json is not COCO JSON. It must be an object with the lists annotations"),
    ],
)
def test_captions_that_fit_no_object_are_refused(data, message):
    with pytest.raises(ConfigError, match=message):
        read_coco(document(IMAGES, [object_row(5, 1)]), "x.json", data, "said.json")


def test_crowds_are_left_out_and_counted_and_the_others_keep_their_place():
    found = read(annotations=[object_row(5, 1, iscrowd=1), object_row(6, 1)])
    assert [mask.index for mask in found.images[0].masks] == [1]
    assert found.left_out == {"crowd regions": 1}


def test_an_image_that_is_listed_twice_is_one_with_the_objects_of_both():
    # Back slashes of Windows separate folders too.
    names = ("train\\a.png", "train/./a.png")
    found = read([image_row(at, name) for at, name in enumerate(names)], [object_row(5, 0), object_row(6, 1)])
    (image,) = found.images
    assert image.path == "train/a.png"
    assert [(mask.index, mask.annotation_id) for mask in image.masks] == [(0, 5), (1, 6)]
    assert found.left_out == {"images listed twice": 1}


def test_two_ids_with_one_file_name_are_named_as_they_land_on_one_picture(caplog):
    read([image_row(1, "a.png"), image_row(2, "a.png"), image_row(3, "b.png")])
    (said,) = caplog.messages
    assert said.startswith("objects.json: images[1] (id 2) has the file_name 'a.png' of an earlier image")


def test_a_whole_number_with_a_point_is_an_id():
    rows = [object_row(5.0, 1.0), object_row(6, 1)]
    found = read_coco(document([image_row(1.0, "a.png")], rows), "x.json", captions((5.0, "a cat")), "said.json")
    (image,) = found.images
    assert [(str(mask.annotation_id), texts_of(image, mask)) for mask in image.masks] == [("5", ("a cat",)), ("6", ())]
    with pytest.raises(ConfigError, match=r"has the id 1\.5"):
        read([image_row(1.5, "a.png")])


def test_a_file_without_any_caption_names_the_option_that_takes_them(caplog):
    read(annotations=[object_row(5, 1)])
    assert "objects.json has no caption" in caplog.text
    assert "--captions" in caplog.text
    caplog.clear()
    read(annotations=[object_row(5, 1), object_row(6, 1, caption="a cat")])
    assert not caplog.messages


def test_a_bare_polygon_names_its_missing_brackets(tmp_path, location):
    images = write_files(tmp_path / "images", {"a.jpg": jpeg(HEIGHT, WIDTH)})
    rows = [object_row(5, 1, segmentation=[4, 3, 12, 3, 12, 9], caption="a cat")]
    (tmp_path / "x.json").write_bytes(document([image_row(1, "a.jpg")], rows))
    import_small(tmp_path / "x.json", images, location, format="coco")
    (row,) = OpenRun.at(location).table("failures").to_pylist()
    assert "annotation 5: a polygon lacks its outer brackets: write [[x, y, …]]" in str(row)


def test_texts_with_a_literal_end_token_are_left_out_and_the_token_is_named():
    texts = ["a cat<|endoftext|> or a dog", "the cat", "A dog <END_OF_TEXT>", "cup<|endoftext|>", "a < b > c"]
    found = read(annotations=[object_row(5, 1, captions=texts)])
    image = found.images[0]
    assert texts_of(image, image.masks[0]) == ("the cat", "a < b > c")
    assert found.left_out == {
        "expressions that hold the token <|endoftext|>": 2,
        "expressions that hold the token <end_of_text>": 1,
    }


OUTSIDE = [
    *("../a.png", "sub/../../a.png", "/etc/passwd", "//server/share/a.png", "..", ".", "a\0.png", "..\\a.png"),
    *("file:///etc/passwd", "s3://other/a.png", "C:\\data\\a.png", "\\\\server\\share\\a.png", "s3://other\\a.png"),
]
IMPOSSIBLE = ["a" * 300, "\ud800.png", "ü" * 200]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *((each, r"objects\.json: images\[0\] has the file_name .* is outside the folder") for each in OUTSIDE),
        *((each, "which no file system allows") for each in IMPOSSIBLE),
    ],
)
def test_a_file_name_that_leads_out_of_the_folder_is_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        read([image_row(1, name)])


def test_a_signed_link_as_a_file_name_is_refused_without_repeating_it():
    with pytest.raises(ConfigError, match="query that may be a secret") as caught:
        read([image_row(1, "https://host/a.png?X-Amz-Signature=abcdef")])
    assert "abcdef" not in str(caught.value)


NO_JSON = [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b'{"images": ' + b"9" * 5000 + b', "annotations": []}']
NO_COCO = [b"[]", b"null", b"{}", b'{"images": {}, "annotations": []}', b'{"images": []}', b"3"]


@pytest.mark.parametrize(
    ("data", "message"),
    [*((each, "cannot be read as JSON") for each in NO_JSON), *((each, "is not COCO JSON") for each in NO_COCO)],
)
def test_what_is_no_coco_is_refused(data, message):
    with pytest.raises(ConfigError, match=rf"objects\.json {message}"):
        read_coco(data, "objects.json")


@pytest.mark.parametrize(
    ("images", "annotations", "message"),
    [
        (["a.png"], [], r"images\[0\] has the id nothing. A whole number"),
        ([image_row(True, "a.png")], [], r"images\[0\] has the id true"),
        ([image_row(1, "a.png"), image_row(1, "b.png")], [], r"images\[1\] has the id 1 of another image"),
        ([{"id": 1, "height": 3, "width": 3}], [], "has the file_name nothing. The path of an image"),
        ([image_row(1, ["a.png"])], [], "has the file_name a list"),
        ([image_row(1, "a.png", height=0)], [], "has the size 0 x 32"),
        ([image_row(1, "a.png", width=None)], [], "has the size 24 x nothing"),
        ([image_row(1, "a.png", width=1e400)], [], "has the size 24 x inf"),
        ([image_row(1, "a.png"), image_row(2, "a.png", width=9)], [], "and an earlier entry give different sizes"),
        (IMAGES, ["object"], r"annotations\[0\] has the id nothing"),
        (IMAGES, [object_row("5", 1)], r"annotations\[0\] has the id '5'"),
        (IMAGES, [object_row(5, 9)], r"annotations\[0\] belongs to image_id 9, which is not in `images`"),
        (IMAGES, [object_row(5, [1])], "belongs to image_id a list"),
        (IMAGES, [object_row(5, 1), object_row(5, 1)], r"annotations\[1\] has the id 5 of another annotation"),
        (IMAGES, [object_row(5, 1, captions="a cat")], "annotation 5 has the captions 'a cat'. A list"),
        (IMAGES, [object_row(5, 1, captions=[["a"]])], "has the expression a list. An expression must be a UTF-8 text"),
        (IMAGES, [object_row(5, 1, caption="\ud800")], r"annotation 5 has the expression .* must be a UTF-8 text"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(images, annotations, message):
    with pytest.raises(ConfigError, match=message):
        read(images, annotations)


# (4, 3) to (11, 8), both inclusive: 8 wide, 6 high.
BOX = [[4, 3], [11, 3], [11, 8], [4, 8]]


def shape(points=BOX, label="target"):
    return {"label": label, "points": points, "shape_type": "polygon", "image_name": "x.jpg"}


def file(*shapes, texts=("the thing one drinks from",), **changes):
    return json.dumps({"text": list(texts), "is_sentence": True, "shapes": list(shapes), **changes}).encode()


@pytest.fixture
def dataset(tmp_path):
    files = {
        "train/a.json": file(shape(), texts=["what one drinks from", "the vessel"]),
        "train/b.json": file(shape(label="ignore"), texts=["what is not there"]),
        "val/c.json": file(shape(), shape([[20, 10], [25, 10], [25, 15]])),
    }
    files |= {str(Path(path).with_suffix(".jpg")): jpeg(HEIGHT, WIDTH) for path in files}
    return write_files(tmp_path / "ReasonSeg", {**files, "explanatory/train.json": b"[]"})


def painted(*shapes, size=(HEIGHT, WIDTH)):
    (image,) = read_reason({"train/a.json": file(*shapes)}).images
    (mask,) = image.masks
    return rle.decode([mask.segmentation(size)], size)[0]


def test_polygons_lines_and_points_are_filled_as_opencv_fills_them():
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    rng = np.random.default_rng(0)
    for _ in range(500):
        height, width = (int(each) for each in rng.integers(5, 60, 2))
        points = rng.integers((0, 0), (width, height), (rng.integers(1, 9), 2))
        expected = np.zeros((height, width), np.uint8)
        cv2.polylines(expected, [points.astype(np.int32)], True, 1, 1)
        cv2.fillPoly(expected, [points.astype(np.int32)], 1)
        assert (filled(points, (height, width)) == expected.astype(bool)).all(), points.tolist()


def test_what_leaves_the_image_is_cut_off():
    found = filled(np.array([[-5, -5], [100, -5], [100, 3], [-5, 3]]), (6, 8))
    assert found[:3].all()
    assert not found[4:].any()


def test_smaller_shapes_lie_on_larger_ones_and_ignored_regions_are_background():
    inner = [[6, 5], [8, 5], [8, 6], [6, 6]]
    assert painted(shape(), shape(inner, "ignore")).sum() == 48 - 6
    assert painted(shape(inner), shape(BOX, "ignore_this")).sum() == 6
    assert painted(shape(), shape([[0, 0], [2, 0], [2, 2]], "flag")).sum() == 48
    # Fractions are cut off.
    assert painted(shape([[x + 0.9, y + 0.9] for x, y in BOX])).sum() == 48
    left_out = read_reason({"train/a.json": file(shape(), shape(inner, "ignore"), shape(inner, "flag"))}).left_out
    assert dict(left_out) == {"regions to ignore, which become background": 1, "shapes of the label flag": 1}


def test_a_file_is_one_mask_that_all_of_its_texts_mean(dataset, location):
    import_small(dataset, dataset, location, format="reasonseg", splits=("train", "val"))
    rows = [(row["text"], row["kind"], row["split"]) for row in OpenRun.at(location).table("expressions").to_pylist()]
    assert sorted(rows) == [
        ("the thing one drinks from", "attribute", "val"),
        ("the vessel", "attribute", "train"),
        ("what is not there", "none", "train"),
        ("what one drinks from", "attribute", "train"),
    ]
    assert sorted(row["area_px"] for row in OpenRun.at(location).table("masks").to_pylist()) == [48, 48 + 21]
    assert verify_run(location).problems == ()


def test_splits_are_folders_and_another_layout_is_named(dataset):
    def read(annotation, *splits):
        return read_files(annotation, format="reasonseg", splits=splits)

    assert [image.path for image in read(dataset).images] == ["train/a.jpg", "train/b.jpg"]
    assert [image.path for image in read(dataset, "val").images] == ["val/c.jpg"]
    assert read(dataset).digests != read(dataset, "val").digests
    with pytest.raises(ConfigError, match=r"has no test/\*\.json\. ReasonSeg's folder has train, val and test"):
        read(dataset, "test")
    with pytest.raises(ConfigError, match=r"is a file\. Give ReasonSeg's folder, which has train/"):
        read(dataset / "train" / "a.json")


def test_a_file_in_windows_code_page_is_read():
    data = file(texts=["caf\xe9"]).replace(b"\\u00e9", b"\xe9")
    assert read_reason({"train/a.json": data}).images[0].phrases[0].text == "café"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", r"train/a\.json cannot be read as JSON"),
        (b"[]", r"is not ReasonSeg's\. It needs the lists `text` and `shapes`"),
        (file(shapes={}), "is not ReasonSeg's"),
        (file(shape(label=None)), r"shapes\[0\] has the label nothing"),
        (file("x"), r"shapes\[0\] has the label nothing"),
        (file(shape([])), r"shapes\[0\] has points of another form"),
        (file(shape([[1, 2, 3]])), "has points of another form"),
        (file(shape([["1", 2]])), "has points of another form"),
        (file(shape([[1e30, 2]])), "has points of another form"),
        (file(shape([[float("nan"), 2]])), "has points of another form|cannot be read as JSON"),
        (file(texts=[5]), "has the expression 5"),
    ],
)
def test_what_is_not_reasonseg_is_refused_with_its_place(data, message):
    with pytest.raises(ConfigError, match=message):
        read_reason({"train/a.json": data})


def test_a_bad_mask_is_left_out_alone_with_what_is_said_of_it_if_the_import_is_told_to_skip_it(tmp_path):
    rows = [
        object_row(5, 1, caption="a box"),
        object_row(6, 1, segmentation=[[1, 2, 3]], caption="a thing"),
        object_row(7, 1, segmentation={"size": [3, 3], "counts": [9]}),
    ]
    write_files(
        tmp_path, {"objects.json": document([image_row(1, "a.png")], rows), "images/a.png": jpeg(HEIGHT, WIDTH)}
    )
    place = RunLocation.open(str(tmp_path / "lost"))
    lost = import_small(tmp_path / "objects.json", tmp_path / "images", place, format="coco")
    assert lost.totals.reasons == {"annotation_damaged": 1}
    place = RunLocation.open(str(tmp_path / "kept"))
    options = {"format": "coco", "skips_bad_masks": True}
    kept = import_small(tmp_path / "objects.json", tmp_path / "images", place, **options)
    (told,) = kept.left_out
    assert told.startswith("bad masks, and what is said of them (in this call), such as a.png, annotation 6: ")
    assert kept.left_out == {told: 2}
    assert (kept.totals.masks, kept.totals.expressions, kept.totals.quarantined) == (1, 1, 0)
    assert verify_run(place).is_clean
    # It decides bytes, so another call of the same run must have it too.
    with pytest.raises(ConfigError, match="skips_bad_masks"):
        import_small(tmp_path / "objects.json", tmp_path / "images", place, format="coco")


def test_what_is_said_of_a_bad_and_of_a_good_mask_together_is_left_out():
    masks = (HumanMask(0, 1, [[1.0, 1.0, 5.0, 1.0, 5.0, 5.0]]), HumanMask(1, 2, "polygon"))
    phrases = (HumanPhrase((0,), "a box"), HumanPhrase((0, 1), "two boxes"), HumanPhrase((), "a dog"))
    human = HumanImage("a.png", None, masks, phrases)
    image, told = ShardImage(0, "00ab", "a.png", jpeg(8, 8), "0" * 64, 8, 8), []
    done = annotate_image(image, human, orientation="upright", limits=ImagesConfig(), on_bad_mask=told.append)
    assert [each.text for each in done.expressions] == ["a box", "a dog"]
    assert [each.partition(":")[0] for each in told] == ["annotation 2"]
