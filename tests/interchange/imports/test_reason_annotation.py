"""ReasonSeg: polygons painted as LISA paints them, one mask a file, regions to ignore, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pseudoris.interchange.imports.reason_annotation import filled, read_reason
from pseudoris.primitives import rle
from pseudoris.primitives.errors import ConfigError
from pseudoris.store.checks.verification import verify_run
from tests.builders.human import HEIGHT, WIDTH
from tests.builders.images import jpeg
from tests.builders.imports import import_small, read_files
from tests.builders.tables import read_table

# (4, 3) to (11, 8), both inclusive: 8 wide, 6 high.
BOX = [[4, 3], [11, 3], [11, 8], [4, 8]]


def shape(points=BOX, label="target"):
    return {"label": label, "points": points, "shape_type": "polygon", "image_name": "x.jpg"}


def file(*shapes, texts=("the thing one drinks from",), **changes):
    return json.dumps({"text": list(texts), "is_sentence": True, "shapes": list(shapes), **changes}).encode()


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "ReasonSeg"
    files = {
        "train/a": file(shape(), texts=["what one drinks from", "the vessel"]),
        "train/b": file(shape(label="ignore"), texts=["what is not there"]),
        "val/c": file(shape(), shape([[20, 10], [25, 10], [25, 15]])),
    }
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{path}.json").write_bytes(data)
        (folder / f"{path}.jpg").write_bytes(jpeg(HEIGHT, WIDTH))
    (folder / "explanatory").mkdir()
    (folder / "explanatory" / "train.json").write_text("[]")
    return folder


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
    rows = [(row["text"], row["kind"], row["split"]) for row in read_table(location, "expressions").to_pylist()]
    assert sorted(rows) == [
        ("the thing one drinks from", "attribute", "val"),
        ("the vessel", "attribute", "train"),
        ("what is not there", "none", "train"),
        ("what one drinks from", "attribute", "train"),
    ]
    assert sorted(row["area_px"] for row in read_table(location, "masks").to_pylist()) == [48, 48 + 21]
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
