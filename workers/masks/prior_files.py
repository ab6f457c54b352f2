"""Reading the two file formats of an instance table; `prior_table` says what they hold."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pycocotools import mask as coco

from schemas.errors import ConfigError, ImageError
from workers.masks import rle
from workers.masks.instances import encode_box
from workers.masks.prior_table import InstanceTable

_PARQUET_MAGIC = b"PAR1"
_NAME_COLUMNS = ("image_id", "key", "file_name")
_MASK_COLUMNS = ("segmentation", "box_xyxy_px")
_HASH_BLOCK_BYTES = 2**20

Size = tuple[int, int]


def file_digest(path: str) -> str:
    """Return the sha256 of a prior's file. Raises: ConfigError: it cannot be read."""
    digest = hashlib.sha256()
    try:
        with fsspec.open(path, "rb") as file:
            while block := file.read(_HASH_BLOCK_BYTES):
                digest.update(block)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"prior.path={path} cannot be read: {error}") from error
    return digest.hexdigest()


def read_instance_table(path: str, min_score: float) -> InstanceTable:
    """Return the instances of a Parquet or COCO JSON file whose score is at least `min_score`.

    Raises:
        ConfigError: The file cannot be read or lacks what it needs.
    """
    try:
        with fsspec.open(path, "rb") as file:
            data = file.read()
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"prior.path={path} cannot be read: {error}") from error
    if data.startswith(_PARQUET_MAGIC):
        return _from_parquet(data, path, min_score)
    return _from_coco(data, path, min_score)


def _from_parquet(data: bytes, path: str, min_score: float) -> InstanceTable:
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        wanted = [name for name in (*_NAME_COLUMNS, *_MASK_COLUMNS, "score") if name in file.schema_arrow.names]
        table = file.read(wanted).combine_chunks()
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"prior.path={path} is no readable Parquet file: {error}") from error
    name_column = _first_column(table, _NAME_COLUMNS, path)
    _first_column(table, _MASK_COLUMNS, path)
    rows = _rows_above(table, min_score, path)
    names = table[name_column].cast(pa.string()).take(rows).to_pylist()
    if None in names:
        row = rows[names.index(None)].as_py()
        raise ConfigError(f"prior.path={path}: row {row} has no {name_column}; every row must name its image")

    def encode_row(row: int, size: Size) -> str:
        values = {name: table[name][row].as_py() for name in _MASK_COLUMNS if name in table.column_names}
        return _encode(
            values.get("segmentation"), values.get("box_xyxy_px"), size, where=f"prior.path={path}: row {row}"
        )

    return InstanceTable(zip(rows.to_pylist(), names, strict=True), encode_row, path=path)


def _first_column(table: pa.Table, wanted: tuple[str, ...], path: str) -> str:
    for name in wanted:
        if name in table.column_names:
            return name
    raise ConfigError(f"prior.path={path} has none of the columns {', '.join(wanted)}: one of them is needed")


def _rows_above(table: pa.Table, min_score: float, path: str) -> pa.Array:
    rows = pa.array(range(table.num_rows), pa.int64())
    if "score" not in table.column_names:
        return rows
    try:
        scores = pc.fill_null(table["score"].cast(pa.float64()), 1.0)
    except pa.ArrowException as error:
        raise ConfigError(f"prior.path={path}: score is {table['score'].type}, a number is needed") from error
    return rows.filter(pc.greater_equal(scores, min_score))


def _from_coco(data: bytes, path: str, min_score: float) -> InstanceTable:
    try:
        document = json.loads(data)
    except ValueError as error:
        raise ConfigError(f"prior.path={path} is neither Parquet nor JSON: {error}") from error
    if not isinstance(document, dict) or not {"images", "annotations"} <= document.keys():
        raise ConfigError(
            f"prior.path={path}: COCO JSON is an object with images and annotations, got "
            f"{type(document).__name__}; a bare list of results does not say which file its images are"
        )
    annotations = document["annotations"]
    images = _coco_images(document["images"], path)
    names = list(_coco_names(annotations, images, path, min_score))

    def encode_row(row: int, size: Size) -> str:
        where = f"prior.path={path}: annotation {row}"
        annotation = annotations[row]
        segmentation = _coco_segmentation(annotation.get("segmentation"), images[annotation["image_id"]], where)
        return _encode(segmentation, _to_xyxy(annotation.get("bbox"), where), size, where=where)

    return InstanceTable(names, encode_row, path=path)


def _coco_images(entries: Any, path: str) -> dict[Any, dict[str, Any]]:
    try:
        return {entry["id"]: {**entry, "file_name": str(entry["file_name"])} for entry in entries}
    except (KeyError, TypeError) as error:
        raise ConfigError(f"prior.path={path}: every entry of images needs an id and a file_name ({error})") from error


def _coco_names(
    annotations: Any, images: dict[Any, dict[str, Any]], path: str, min_score: float
) -> Iterator[tuple[int, str]]:
    for row, annotation in enumerate(annotations):
        if not isinstance(annotation, dict) or annotation.get("image_id") not in images:
            raise ConfigError(f"prior.path={path}: annotation {row} has no image_id that images lists")
        score = annotation.get("score", 1.0)
        if not isinstance(score, int | float):
            raise ConfigError(f"prior.path={path}: annotation {row} has score {score!r}, a number is needed")
        if score >= min_score and not annotation.get("iscrowd"):
            yield row, images[annotation["image_id"]]["file_name"]


def _coco_segmentation(segmentation: Any, image: dict[str, Any], where: str) -> dict[str, Any] | None:
    """Return any of COCO's three forms as compressed RLE, or None where there is no segmentation."""
    if not segmentation:
        return None
    if isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), str):
        return segmentation
    try:
        size = segmentation["size"] if isinstance(segmentation, dict) else [image["height"], image["width"]]
        encoded = coco.frPyObjects(segmentation, *size)
        merged = coco.merge(encoded) if isinstance(encoded, list) else encoded
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ConfigError(
            f"{where}: the segmentation is neither RLE nor polygons of an image with height and width ({error!r})"
        ) from error
    return {"size": size, "counts": merged["counts"].decode("ascii")}


def _to_xyxy(bbox: Any, where: str) -> list[float] | None:
    if bbox is None:
        return None
    if len(bbox) != 4:
        raise ConfigError(f"{where}: bbox is {bbox!r}, four numbers [x, y, w, h] are needed")
    x, y, width, height = bbox
    return [x, y, x + width, y + height]


def _encode(segmentation: dict[str, Any] | None, box: list[float] | None, size: Size, *, where: str) -> str:
    """Return the checked RLE of an instance of an image (H, W)."""
    if segmentation is None or segmentation.get("counts") is None:
        if box is None or len(box) != 4 or any(edge is None for edge in box):
            raise ConfigError(f"{where} has neither a segmentation nor a box of four numbers, got {box!r}")
        return encode_box((box[0], box[1], box[2], box[3]), size)
    if list(segmentation.get("size") or ()) != list(size):
        raise ImageError(
            "prior_mismatch",
            f"{where} is a mask of size {segmentation.get('size')}, the upright image has {list(size)}: "
            "make the table from images turned upright by their EXIF orientation, at full size",
        )
    counts = segmentation["counts"]
    text = counts.decode("ascii", "replace") if isinstance(counts, bytes) else counts
    if not rle.is_valid(text, size):
        raise ConfigError(f"{where}: counts is no COCO compressed RLE of {size[0]} x {size[1]} pixels")
    return text
