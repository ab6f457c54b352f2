"""Reading COCO JSON as an instance table; `prior_table` says what it may hold."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from schemas.errors import ConfigError
from workers.masks.instances import check_size, encode_instance
from workers.masks.prior_table import InstanceTable
from workers.segmentations import compressed_counts, unwrapped

Entry = Mapping[str, Any]


def read_coco_json(data: bytes, path: str, min_score: float) -> InstanceTable:
    """Return the instances of a COCO JSON document whose score is at least `min_score`.

    Raises:
        ConfigError: It is no JSON, no COCO document, or an annotation names no image.
    """
    document = _document(data, path)
    annotations = document["annotations"]
    images = _images(document["images"], path)
    names = list(_names(annotations, images, path, min_score))

    def encode_row(row: int, size: tuple[int, int]) -> str:
        where = f"prior.path={path}: annotation {row}"
        annotation = annotations[row]
        segmentation = _compressed(annotation.get("segmentation"), images[annotation["image_id"]], size, where)
        return encode_instance(segmentation, _to_xyxy(annotation.get("bbox"), where), size, where=where)

    return InstanceTable(names, encode_row, path=path)


def _document(data: bytes, path: str) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"prior.path={path} is neither Parquet nor JSON: {error}") from error
    if not isinstance(document, dict) or not {"images", "annotations"} <= document.keys():
        raise ConfigError(
            f"prior.path={path}: COCO JSON is an object with images and annotations, got "
            f"{type(document).__name__}; a bare list of results does not say which file its images are"
        )
    for name in ("images", "annotations"):
        if not isinstance(document[name], list):
            raise ConfigError(f"prior.path={path}: {name} is a list, got {type(document[name]).__name__}")
    return document


def _images(entries: list[Any], path: str) -> dict[int | str, Entry]:
    try:
        return {entry["id"]: {**entry, "file_name": str(entry["file_name"])} for entry in entries}
    except (KeyError, TypeError) as error:
        raise ConfigError(f"prior.path={path}: every entry of images needs an id and a file_name ({error})") from error


def _names(
    annotations: list[Any], images: Mapping[int | str, Entry], path: str, min_score: float
) -> Iterator[tuple[int, str]]:
    for row, annotation in enumerate(annotations):
        image = annotation.get("image_id") if isinstance(annotation, dict) else None
        if not isinstance(image, int | str) or image not in images:
            raise ConfigError(f"prior.path={path}: annotation {row} has no image_id that images lists, got {image!r}")
        score = annotation.get("score", 1.0)
        if not isinstance(score, int | float):
            raise ConfigError(f"prior.path={path}: annotation {row} has score {score!r}, a number is needed")
        if score >= min_score and not annotation.get("iscrowd"):
            yield row, images[image]["file_name"]


def _compressed(segmentation: Any, image: Entry, upright: tuple[int, int], where: str) -> dict[str, Any] | None:
    """Return any of COCO's forms as compressed RLE, or None where there is no segmentation.

    Raises:
        ConfigError: It is none of them.
        ImageError: It is of another size than the upright image.
    """
    segmentation = unwrapped(segmentation)
    if not segmentation:
        return None
    in_image = [image.get("height"), image.get("width")]
    size: Any = segmentation.get("size") if isinstance(segmentation, dict) else in_image
    if not _is_whole_numbers(size) or len(size) != 2:
        raise ConfigError(f"{where}: the segmentation needs a size [height, width], got {size!r}")
    check_size(size, upright, where=where)
    try:
        return {"size": size, "counts": compressed_counts(segmentation, upright)}
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def _is_whole_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, int) and 0 <= value < 2**31 for value in values)


def _is_numbers(values: Any) -> bool:
    # JSON as Python reads it has NaN and Infinity.
    return isinstance(values, list) and all(isinstance(v, int | float) and math.isfinite(v) for v in values)


def _to_xyxy(bbox: Any, where: str) -> list[float] | None:
    if bbox is None:
        return None
    if not _is_numbers(bbox) or len(bbox) != 4:
        raise ConfigError(f"{where}: bbox is {bbox!r}, four numbers [x, y, w, h] are needed")
    x, y, width, height = bbox
    return [x, y, x + width, y + height]
