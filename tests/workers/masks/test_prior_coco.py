"""Instance tables in COCO JSON, well formed and malformed."""

import json

import numpy as np
import pytest

from schemas.errors import ConfigError, ImageError
from tests.builders.instances import BOX, SIZE, box_mask, instances, masks, segmentation
from workers.masks.prior_files import read_instance_table


@pytest.fixture
def coco(tmp_path):
    def write(*annotations, images=({"id": 7, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]},)):
        path = tmp_path / "instances.json"
        document = {"images": list(images), "annotations": [{"image_id": 7, **given} for given in annotations]}
        path.write_text(json.dumps(document))
        return str(path)

    return write


def test_coco_masks_are_read_in_all_of_their_forms(coco):
    x0, y0, x1, y1 = BOX
    polygon = [x0, y0, x1, y0, x1, y1, x0, y1]
    flat = box_mask().T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]]).astype(int)))
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    path = coco(
        {"segmentation": segmentation()},
        {"segmentation": {"size": list(SIZE), "counts": runs}},
        {"segmentation": [polygon]},
        {"segmentation": [segmentation()]},
        {"segmentation": [{"size": list(SIZE), "counts": runs}]},
        {"bbox": [x0, y0, x1 - x0, y1 - y0]},
        {"segmentation": [], "bbox": [x0, y0, x1 - x0, y1 - y0]},
    )
    assert instances(path).rows == (0, 1, 2, 3, 4, 5, 6)
    for mask in masks(path):
        np.testing.assert_array_equal(mask, box_mask())


def test_several_polygons_are_one_instance(coco):
    pieces = [[1, 1, 4, 1, 4, 4, 1, 4], [10, 10, 14, 10, 14, 13, 10, 13]]
    np.testing.assert_array_equal(
        masks(coco({"segmentation": pieces})), [box_mask((1, 1, 4, 4)) | box_mask((10, 10, 14, 13))]
    )


def test_a_polygon_that_leaves_the_image_is_clipped(coco):
    x0, y0, _, _ = BOX
    polygon = [x0, y0, 1e9, y0, 1e9, 1e9, x0, 1e9]
    np.testing.assert_array_equal(masks(coco({"segmentation": [polygon]})), [box_mask((x0, y0, SIZE[1], SIZE[0]))])


def test_low_scores_and_crowds_are_passed_over(coco):
    bbox = {"bbox": [1, 1, 5, 5]}
    path = coco({**bbox, "score": 0.4}, {**bbox, "iscrowd": 1}, {**bbox, "score": 0.6}, bbox)
    assert instances(path).rows == (2, 3)


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
        ("PAR1 but not really", "no readable Parquet file"),
    ],
)
def test_a_malformed_file_is_refused_when_it_is_read(tmp_path, text, message):
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_instance_table(str(path), 0.5)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"segmentation": [[1, 2, 3]]}, "annotation 0: the segmentation is neither RLE nor polygons"),
        ({"segmentation": {"size": list(SIZE)}}, "annotation 0: the segmentation is neither RLE nor polygons"),
        (
            {"segmentation": {"counts": [600]}},
            r"annotation 0: the segmentation needs a size \[height, width\], got None",
        ),
        ({"segmentation": [[1, 2, 9, 9]]}, "neither RLE nor polygons of at least three points"),
        ({"segmentation": "polygon"}, "annotation 0: the segmentation is neither RLE nor polygons"),
        ({"segmentation": [[1, 2, 9, float("nan"), 3, 4]]}, "neither RLE nor polygons"),
        ({"segmentation": {"size": list(SIZE), "counts": [-5, 605]}}, "neither RLE nor polygons"),
        ({"segmentation": {"size": list(SIZE), "counts": [500]}}, "the runs cover 500 pixels, the image has 20 x 30"),
        ({"bbox": [1, 2, 3]}, r"annotation 0: bbox is \[1, 2, 3\], four numbers"),
        ({"bbox": [1, 2, 3, "4"]}, "annotation 0: bbox is .*, four numbers"),
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
    def draws(*args):
        pytest.fail("pycocotools was asked to draw it")

    monkeypatch.setattr("pycocotools.mask.frPyObjects", draws)
    huge = [{"id": 7, "file_name": "a.jpg", "height": 2**31 - 1, "width": 2**31 - 1}]
    with pytest.raises(ImageError, match=r"annotation 0 is a mask of size \[2147483647, 2147483647\]") as caught:
        instances(coco(annotation, images=huge))
    assert caught.value.reason == "prior_mismatch"
