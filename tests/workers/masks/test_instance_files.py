"""Instance tables in COCO JSON and in Parquet, well formed and malformed."""

import json

import numpy as np
import pyarrow as pa
import pytest

from pseudoris.primitives import rle
from pseudoris.primitives.errors import ConfigError, ImageError
from pseudoris.workers.masks.instances import read_instance_table
from tests.builders import human
from tests.builders.sources import parquet_bytes

SIZE = (20, 30)
BOX = (4, 5, 14, 12)


def segmentation(box=BOX):
    return human.rle(human.box_mask(box, SIZE))


def instances(path, *, min_score=0.5, key="a.jpg", size=SIZE):
    return read_instance_table(path, min_score).instances("0" * 16, key, size)


def masks(path, **settings):
    return rle.decode(instances(path, **settings).counts, SIZE)


@pytest.fixture
def coco(tmp_path):
    def write(*annotations, images=({"id": 7, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]},)):
        path = tmp_path / "instances.json"
        document = {"images": list(images), "annotations": [{"image_id": 7, **given} for given in annotations]}
        path.write_text(json.dumps(document))
        return str(path)

    return write


def test_coco_masks_and_boxes_are_read(coco):
    x0, y0, x1, y1 = BOX
    polygon, bbox = [x0, y0, x1, y0, x1, y1, x0, y1], [x0, y0, x1 - x0, y1 - y0]
    path = coco(
        {"segmentation": segmentation()},
        {"segmentation": [polygon]},
        {"bbox": bbox},
        {"segmentation": [], "bbox": bbox},
    )
    assert instances(path).rows == (0, 1, 2, 3)
    np.testing.assert_array_equal(masks(path), [human.box_mask(BOX, SIZE)] * 4)


def test_low_scores_and_crowds_are_passed_over(coco):
    bbox = {"bbox": [1, 1, 5, 5]}
    path = coco({**bbox, "score": 0.4}, {**bbox, "iscrowd": 1}, {**bbox, "score": 0.6}, bbox)
    assert instances(path).rows == (2, 3)
    images = [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "night/a.jpg"}]
    assert instances(coco(bbox, images=images), key="night/a.jpg").rows == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "neither Parquet nor JSON"),
        ("[" * 100_000, "neither Parquet nor JSON"),
        ('{"images": ' + "9" * 5000 + "}", "neither Parquet nor JSON"),
        ('[{"image_id": 7, "score": 0.4}]', "got list; a bare list of results"),
        ('{"images": []}', "an object with images and annotations"),
        ('{"images": [{"id": 1}], "annotations": []}', "needs an id and a file_name"),
        ('{"images": [], "annotations": [{"image_id": 3}]}', "annotation 0 has no image_id that images lists"),
        ('{"images": [{"id": 3, "file_name": "a"}], "annotations": [{"image_id": 3, "score": "x"}]}', "score 'x'"),
        (
            '{"images": [{"id": 3, "file_name": "a"}], "annotations": [{"image_id": [3]}]}',
            "annotation 0 has no image_id",
        ),
        ('{"images": 4, "annotations": []}', "images is a list, got int"),
        ('{"images": [], "annotations": 4}', "annotations is a list, got int"),
        ("PAR1 but not really", "cannot be read as Parquet"),
        (None, r"t\.json cannot be read"),
    ],
)
def test_a_malformed_or_missing_file_is_refused_when_it_is_read(tmp_path, text, message):
    path = tmp_path / "t.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_instance_table(str(path), 0.5)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"segmentation": [[1, 2, 3]]}, "annotation 0: the segmentation is neither RLE nor polygons"),
        (
            {"segmentation": {"counts": [600]}},
            r"annotation 0: the segmentation needs a size \[height, width\], got None",
        ),
        ({"segmentation": {"size": list(SIZE), "counts": [500]}}, "the runs cover 500 pixels, the image has 20 x 30"),
        ({"bbox": [1, 2, 3]}, r"annotation 0: bbox is \[1, 2, 3\], but must be four numbers"),
        ({"bbox": [1, 2, 3, 10**400]}, "neither Parquet nor JSON: its number 1000.* has more than 64 bits"),
        ({"bbox": [1, 2, 3, "4"]}, "annotation 0: bbox is .*, but must be four numbers"),
        ({}, "annotation 0 has neither a segmentation nor a box"),
    ],
)
def test_a_malformed_annotation_is_refused_with_its_number(coco, annotation, message):
    with pytest.raises(ConfigError, match=message):
        instances(coco(annotation))


def test_polygons_need_the_size_of_their_image(coco):
    path = coco({"segmentation": [[1, 1, 4, 1, 4, 4]]}, images=[{"id": 7, "file_name": "a.jpg"}])
    with pytest.raises(ConfigError, match=r"needs a size \[height, width\], got \[None, None\]"):
        instances(path)


@pytest.mark.parametrize(
    "annotation",
    [
        {"segmentation": [[0, 0, 2**31, 0, 2**31, 2**31]]},
        {"segmentation": {"size": [2**31 - 1, 2**31 - 1], "counts": [2**31 - 1] * 3}},
    ],
    ids=["polygons", "runs"],
)
def test_a_mask_of_an_absurd_size_costs_its_image_alone_and_is_not_drawn(coco, monkeypatch, annotation):
    monkeypatch.setattr("pycocotools.mask.frPyObjects", lambda *_: pytest.fail("pycocotools was asked to draw it"))
    huge = [{"id": 7, "file_name": "a.jpg", "height": 2**31 - 1, "width": 2**31 - 1}]
    with pytest.raises(ImageError, match=r"annotation 0 is a mask of size \[2147483647, 2147483647\]") as caught:
        instances(coco(annotation, images=huge))
    assert caught.value.reason == "prior_mismatch"


SEGMENTATION = pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])


@pytest.fixture
def parquet(tmp_path):
    def write(**columns):
        path = tmp_path / "instances.parquet"
        arrays = {
            name: pa.array(values, SEGMENTATION) if name == "segmentation" and isinstance(values, list) else values
            for name, values in columns.items()
        }
        path.write_bytes(parquet_bytes(arrays))
        return str(path)

    return write


@pytest.mark.parametrize(
    ("columns", "boxes"),
    [
        ({"key": ["b.jpg", "a.jpg"], "segmentation": [segmentation((0, 0, 2, 2)), segmentation()]}, [BOX]),
        ({"file_name": ["a.jpg"], "box_xyxy_px": [[float(edge) for edge in BOX]]}, [BOX]),
        (
            {"key": ["a.jpg"] * 2, "segmentation": [segmentation(), None], "box_xyxy_px": [None, [1, 2, 3, 4]]},
            [BOX, (1, 2, 3, 4)],
        ),
        ({"image_id": ["0" * 16], "mask_id": ["m"], "segmentation": [segmentation()], "area_px": [70]}, [BOX]),
        (
            {"key": ["a.jpg"], "segmentation": pa.array([{"size": list(SIZE), "counts": [0, 600]}])},
            [(0, 0, *SIZE[::-1])],
        ),
    ],
    ids=["masks", "boxes", "a box where there is no mask", "a run's own table", "runs"],
)
def test_a_parquet_table_is_read(parquet, columns, boxes):
    np.testing.assert_array_equal(masks(parquet(**columns)), [human.box_mask(box, SIZE) for box in boxes])


def test_rows_below_the_score_are_passed_over_and_keep_the_others_numbers(parquet):
    path = parquet(key=["night/a.jpg", *["a.jpg"] * 3], box_xyxy_px=[list(BOX)] * 4, score=[0.49, 0.5, None, 0.9])
    assert instances(path).rows == (1, 2, 3)
    assert instances(path, key="night/a.jpg").rows == ()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"box_xyxy_px": [[0, 0, 1, 1]]}, "none of the columns image_id, key, file_name"),
        ({"key": ["a.jpg"]}, "none of the columns segmentation, box_xyxy_px"),
        ({"key": ["a.jpg", None], "box_xyxy_px": [[0, 0, 1, 1]] * 2}, "row 1 has no key"),
        ({"key": ["a.jpg"], "box_xyxy_px": [[0, 0, 1, 1]], "score": ["high"]}, "score is string, but must be a number"),
    ],
)
def test_a_malformed_parquet_table_is_refused_when_it_is_read(parquet, columns, message):
    with pytest.raises(ConfigError, match=message):
        read_instance_table(parquet(**columns), 0.5)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"box_xyxy_px": [[0.0, 1.0, 2.0]]}, r"row 0 has neither a segmentation nor a box of four numbers, got \[0.0"),
        ({"box_xyxy_px": [[0.0, 1.0, 2.0, None]]}, "row 0 has neither"),
        ({"box_xyxy_px": [["a", "b", "c", "d"]]}, "row 0 has neither"),
        *(
            (
                {"segmentation": [{"size": list(SIZE), "counts": text}]},
                "row 0: counts is not a COCO compressed RLE of 20 x 30",
            )
            for text in ("zzz", "o" * 300, "PPPPPPPPPPP0")
        ),
        ({"segmentation": [{"size": list(SIZE), "counts": None}]}, "row 0 has neither"),
        (
            {"segmentation": pa.array([{"size": list(SIZE), "counts": [500]}])},
            "row 0: the runs cover 500 pixels, the image has 20 x 30",
        ),
        ({"segmentation": pa.array(["m"])}, "row 0: segmentation is a str, but needs size and counts"),
        ({"box_xyxy_px": [7]}, "row 0 has neither"),
    ],
)
def test_a_malformed_row_is_refused_with_its_number(parquet, columns, message):
    with pytest.raises(ConfigError, match=message):
        instances(parquet(**{"key": ["a.jpg"], **columns}))


def test_masks_of_another_size_are_the_images_fault_alone(parquet):
    path = parquet(key=["a.jpg"], segmentation=[segmentation()])
    with pytest.raises(ImageError, match=r"of size \[20, 30\], the upright image has \[30, 20\]") as caught:
        instances(path, size=(30, 20))
    assert caught.value.reason == "prior_mismatch"
