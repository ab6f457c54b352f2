"""Instance tables in Parquet, well formed and malformed."""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.errors import ConfigError, ImageError
from tests.builders.instances import BOX, SIZE, box_mask, code, instances, masks, segmentation
from workers.masks.prior_files import file_digest, read_instance_table

SEGMENTATION = pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])


@pytest.fixture
def parquet(tmp_path):
    def write(**columns):
        path = tmp_path / "instances.parquet"
        arrays = {
            name: pa.array(values, SEGMENTATION) if name == "segmentation" and isinstance(values, list) else values
            for name, values in columns.items()
        }
        pq.write_table(pa.table(arrays), path)
        return str(path)

    return write


def test_a_parquet_table_of_masks_is_read(parquet):
    path = parquet(key=["b.jpg", "a.jpg"], segmentation=[segmentation((0, 0, 2, 2)), segmentation()])
    assert instances(path).rows == (1,)
    np.testing.assert_array_equal(masks(path), [box_mask()])


def test_a_parquet_table_of_boxes_is_read(parquet):
    path = parquet(file_name=["a.jpg"], box_xyxy_px=[[float(edge) for edge in BOX]])
    np.testing.assert_array_equal(masks(path), [box_mask()])


def test_a_row_without_a_mask_falls_back_to_its_box(parquet):
    other = (1, 2, 3, 4)
    path = parquet(key=["a.jpg"] * 2, segmentation=[segmentation(), None], box_xyxy_px=[None, list(other)])
    np.testing.assert_array_equal(masks(path), [box_mask(), box_mask(other)])


def test_a_runs_own_masks_table_is_an_instance_table(parquet):
    path = parquet(image_id=["0" * 16], mask_id=["m"], segmentation=[segmentation()], area_px=[70])
    np.testing.assert_array_equal(masks(path, key="whatever"), [box_mask()])


def test_rows_below_the_score_are_passed_over_and_keep_the_others_numbers(parquet):
    path = parquet(key=["a.jpg"] * 4, box_xyxy_px=[list(BOX)] * 4, score=[0.49, 0.5, None, 0.9])
    assert instances(path).rows == (1, 2, 3)


def test_binary_counts_are_read(tmp_path):
    kind = pa.struct([("size", pa.list_(pa.int64())), ("counts", pa.binary())])
    value = {"size": list(SIZE), "counts": code().encode()}
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"key": pa.array(["a.jpg"]), "segmentation": pa.array([value], kind)}), path)
    np.testing.assert_array_equal(masks(str(path)), [box_mask()])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"box_xyxy_px": [[0, 0, 1, 1]]}, "none of the columns image_id, key, file_name"),
        ({"key": ["a.jpg"]}, "none of the columns segmentation, box_xyxy_px"),
        ({"key": ["a.jpg", None], "box_xyxy_px": [[0, 0, 1, 1]] * 2}, "row 1 has no key"),
        ({"key": ["a.jpg"], "box_xyxy_px": [[0, 0, 1, 1]], "score": ["high"]}, "score is string, a number is needed"),
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
        (
            {"segmentation": [{"size": list(SIZE), "counts": "zzz"}]},
            "row 0: counts is no COCO compressed RLE of 20 x 30",
        ),
        ({"segmentation": [{"size": list(SIZE), "counts": None}]}, "row 0 has neither"),
        (
            {"segmentation": pa.array([{"size": list(SIZE), "counts": [600]}])},
            "row 0: counts is no COCO compressed RLE",
        ),
        ({"segmentation": [{"size": list(SIZE), "counts": "o" * 300}]}, "row 0: counts is no COCO compressed RLE"),
        ({"segmentation": [{"size": list(SIZE), "counts": "PPPPPPPPPPP0"}]}, "row 0: counts is no COCO compressed"),
        ({"segmentation": pa.array(["m"])}, "row 0: segmentation is a str, size and counts are needed"),
        ({"box_xyxy_px": [7]}, "row 0 has neither"),
    ],
)
def test_a_malformed_row_is_refused_with_its_number(parquet, columns, message):
    with pytest.raises(ConfigError, match=message):
        instances(parquet(key=["a.jpg"], **columns))


def test_masks_of_another_size_are_the_images_fault_alone(parquet):
    path = parquet(key=["a.jpg"], segmentation=[segmentation()])
    with pytest.raises(ImageError, match=r"of size \[20, 30\], the upright image has \[30, 20\]") as caught:
        instances(path, size=(30, 20))
    assert caught.value.reason == "prior_mismatch"


@pytest.mark.parametrize("read", [lambda path: read_instance_table(path, 0.5), file_digest])
def test_a_missing_file_is_refused(tmp_path, read):
    with pytest.raises(ConfigError, match=r"nowhere\.parquet cannot be read"):
        read(str(tmp_path / "nowhere.parquet"))


def test_the_digest_is_the_files_sha256(tmp_path):
    path = tmp_path / "t.parquet"
    path.write_bytes(b"rows")
    assert file_digest(str(path)) == hashlib.sha256(b"rows").hexdigest()
