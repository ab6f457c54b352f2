"""COCO JSON as tables that later steps can trust: ids that are unique, paths that stay inside, images that exist."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from schemas.errors import ConfigError
from training.imports.annotation import relative_path, shown

# Above any image that can be decoded; pycocotools counts pixels in 32 bits.
_MAX_SIDE_PX: Final = 2**20


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """A row of `images`; `size` is (H, W) in pixels, None where it is not stated."""

    path: str
    size: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class AnnotationEntry:
    """A row of `annotations`.

    Attributes:
        annotation_id: Unique in the file.
        path: Of its image.
        index: Its place among all rows of its image, from 0.
        row: As it stands in the file.
    """

    annotation_id: int
    path: str
    index: int
    row: Mapping[str, Any]

    @property
    def is_crowd(self) -> bool:
        """Whether it is a region of many objects and not one of them."""
        return bool(self.row.get("iscrowd"))


@dataclass(frozen=True, slots=True)
class CocoTables:
    """The two tables of COCO JSON.

    Attributes:
        sizes: What each path's image is stated to be, in the file's order; a path that stands twice counts once.
        paths: Of images, by their id.
        annotations: In the file's order.
    """

    sizes: Mapping[str, tuple[int, int] | None]
    paths: Mapping[int | str, str]
    annotations: Sequence[AnnotationEntry]


def read_coco_tables(data: bytes, where: str) -> CocoTables:
    """Return the tables of a COCO JSON document; of a REFER dataset's `instances.json` too.

    Args:
        data: The document, whole.
        where: Its file, for messages.

    Raises:
        ConfigError: It is none, an id is missing or repeated, or a path leads out of the folder of images.
    """
    document = read_lists(data, where, ("images", "annotations"))
    sizes: dict[str, tuple[int, int] | None] = {}
    paths: dict[int | str, str] = {}
    for place, row in enumerate(document["images"]):
        here = f"{where}: images[{place}]"
        image_id, entry = _id(row, here, may_be_text=True), _image(row, here)
        if image_id in paths:
            raise ConfigError(f"{here} has the id {shown(image_id)} of another image: ids must be unique")
        if sizes.setdefault(entry.path, entry.size) != entry.size:
            raise ConfigError(f"{here} gives {shown(entry.path)} another size than an entry before it: mend the file")
        paths[image_id] = entry.path
    return CocoTables(sizes, paths, _annotations(document["annotations"], paths, where))


def read_lists(data: bytes, where: str, names: Sequence[str]) -> dict[str, list[Any]]:
    """Return the named lists of a JSON object; what stands in them is unchecked.

    Raises:
        ConfigError: It is no JSON, or lacks one of them.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} cannot be read as JSON ({type(error).__name__}): get the file again") from error
    if not isinstance(document, dict) or not all(isinstance(document.get(name), list) for name in names):
        raise ConfigError(f"{where} is no COCO JSON: an object with lists named {' and '.join(names)} is needed")
    return {name: document[name] for name in names}


def _image(row: Mapping[str, Any], where: str) -> ImageEntry:
    height, width = row.get("height"), row.get("width")
    if height is None and width is None:
        return ImageEntry(relative_path(row.get("file_name"), where=where), None)
    if not (_is_side(height) and _is_side(width)):
        raise ConfigError(f"{where} has the size {shown(height)} x {shown(width)}: whole pixels are needed, or neither")
    return ImageEntry(relative_path(row.get("file_name"), where=where), (int(height or 0), int(width or 0)))


def _annotations(rows: Sequence[Any], paths: Mapping[int | str, str], where: str) -> list[AnnotationEntry]:
    found: dict[int, AnnotationEntry] = {}
    of_image: Counter[str] = Counter()
    for place, row in enumerate(rows):
        here = f"{where}: annotations[{place}]"
        annotation_id = int(_id(row, here, may_be_text=False))
        image = row.get("image_id")
        if not isinstance(image, int | str) or image not in paths:
            raise ConfigError(f"{here} belongs to image_id {shown(image)}, which images does not list")
        if annotation_id in found:
            raise ConfigError(f"{here} has the id {annotation_id} of another annotation: ids must be unique")
        path = paths[image]
        found[annotation_id] = AnnotationEntry(annotation_id, path, of_image[path], row)
        of_image[path] += 1
    return list(found.values())


def _id(row: Any, where: str, *, may_be_text: bool) -> int | str:
    value = row.get("id") if isinstance(row, dict) else None
    if isinstance(value, bool) or not (isinstance(value, int) or (may_be_text and isinstance(value, str))):
        raise ConfigError(f"{where} has the id {shown(value)}: a whole number is needed")
    return value


def _is_side(value: Any) -> bool:
    return isinstance(value, int) and 0 < value <= _MAX_SIDE_PX
