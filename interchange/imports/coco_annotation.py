"""Reads COCO JSON: every object of every image, with the captions of its annotation. Called by `annotation_files.py`.

annotations[]: id, image_id, segmentation, iscrowd, and `caption` (a text) or `captions` (a list of texts)

The file is untrusted: ids must be unique, paths must stay inside the folder, and images must be listed. REFER's and
gRefCOCO's `instances.json` are such a file too.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import Any, Final

from pseudoris.interchange.imports.human_annotation import (
    Annotation,
    HumanImage,
    HumanMask,
    HumanPhrase,
    clean_texts,
    read_json,
    relative_path,
    shown,
)
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.ids import sha256_hex

logger = logging.getLogger(__name__)

# Longer sides are refused: no such image can be decoded, and pycocotools counts pixels in 32 bits.
_MAX_SIDE_PX: Final = 2**20


def read_coco(data: bytes, name: str, captions: bytes | None = None, captions_name: str = "") -> Annotation:
    """Return the content of a COCO JSON document: all of its images, also those without an object.

    Expressions cannot refer to crowd regions: they are left out and counted. `data` is the document, whole, and
    `captions` that of captions by instance, if there is one; the names are for messages and digests.
    """
    tables = read_coco_tables(data, name)
    left_out = Counter({"images listed twice": len(tables.paths) - len(tables.sizes)})
    digests = {name: sha256_hex(data)}
    said: defaultdict[int, list[Any]] = defaultdict(list)
    if captions is not None:
        digests[f"{captions_name} (captions)"] = sha256_hex(captions)
        for place, row in enumerate(read_lists(captions, captions_name, ("annotations",))["annotations"]):
            instance = _whole(row.get("instance_id")) if isinstance(row, dict) else None
            if not isinstance(instance, int) or instance not in tables.annotations:
                raise ConfigError(
                    f"{captions_name}: annotations[{place}] is a caption of instance_id {shown(instance)}, which is "
                    "not in the instances. Captions of whole images cannot be imported."
                )
            said[instance].append(row.get("caption"))
    kept: set[int] = set()
    phrases: defaultdict[str, list[HumanPhrase]] = defaultdict(list)
    for entry in tables.annotations.values():
        if entry.row.get("iscrowd"):
            left_out["crowd regions"] += 1
            continue
        where = f"{name}: annotation {entry.annotation_id}"
        own, caption = entry.row.get("captions") or [], entry.row.get("caption")
        if not isinstance(own, list):
            raise ConfigError(f"{where} has the captions {shown(own)}. A list of texts is needed.")
        every = [*([] if caption is None else [caption]), *own, *said.get(entry.annotation_id, ())]
        kept.add(entry.annotation_id)
        phrases[entry.path] += (HumanPhrase((entry.index,), text) for text in clean_texts(every, left_out, where=where))
    if captions is None and kept and not any(phrases.values()):
        logger.warning(
            "%s has no caption, so its masks are imported without expressions. Give the file of captions by instance "
            "as --captions.",
            name,
        )
    return Annotation(tables.images(kept, phrases, tables.sizes), digests, +left_out)


@dataclass(frozen=True, slots=True)
class AnnotationEntry:
    """A row of `annotations` as in the file, its unique id, the path of its image, and its place there, from 0."""

    annotation_id: int
    path: str
    index: int
    row: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CocoTables:
    """The two tables of COCO JSON: the stated size of each path, the path of each image id, the annotations by id.

    Sizes and annotations are in the file's order; a repeated path counts once.
    """

    sizes: Mapping[str, tuple[int, int] | None]
    paths: Mapping[int | str, str]
    annotations: Mapping[int, AnnotationEntry]

    def images(
        self, kept: Container[int], phrases: Mapping[str, Iterable[HumanPhrase]], paths: Iterable[str]
    ) -> tuple[HumanImage, ...]:
        """Return the images at `paths`, each with the objects that are among the ids `kept`, and its phrases."""
        masks: defaultdict[str, list[HumanMask]] = defaultdict(list)
        for each in self.annotations.values():
            if each.annotation_id in kept:
                masks[each.path].append(HumanMask(each.index, each.annotation_id, each.row.get("segmentation")))
        return tuple(
            HumanImage(path, self.sizes[path], tuple(masks[path]), tuple(phrases.get(path, ()))) for path in paths
        )


def read_coco_tables(data: bytes, where: str) -> CocoTables:
    """Return the tables of a COCO JSON document, whole; of a REFER dataset's `instances.json` too."""
    document = read_lists(data, where, ("images", "annotations"))
    sizes: dict[str, tuple[int, int] | None] = {}
    paths: dict[int | str, str] = {}
    for place, row in enumerate(document["images"]):
        here = f"{where}: images[{place}]"
        image_id, (path, size) = _id(row, here, may_be_text=True), _image(row, here)
        if image_id in paths:
            raise ConfigError(f"{here} has the id {shown(image_id)} of another image. Ids must be unique.")
        if path in sizes:
            logger.warning(
                "%s (id %s) has the file_name %s of an earlier image: their objects land on one picture. If they are "
                "two pictures, name each by its path.",
                here,
                shown(image_id),
                shown(path),
            )
        if sizes.setdefault(path, size) != size:
            raise ConfigError(f"{here} and an earlier entry give different sizes of {shown(path)}. Fix the file.")
        paths[image_id] = path
    found: dict[int, AnnotationEntry] = {}
    of_image: Counter[str] = Counter()
    for place, row in enumerate(document["annotations"]):
        here = f"{where}: annotations[{place}]"
        annotation_id = int(_id(row, here, may_be_text=False))
        image = _whole(row.get("image_id"))
        if not isinstance(image, int | str) or image not in paths:
            raise ConfigError(f"{here} belongs to image_id {shown(image)}, which is not in `images`")
        if annotation_id in found:
            raise ConfigError(f"{here} has the id {annotation_id} of another annotation. Ids must be unique.")
        path = paths[image]
        found[annotation_id] = AnnotationEntry(annotation_id, path, of_image[path], row)
        of_image[path] += 1
    return CocoTables(sizes, paths, found)


def read_lists(data: bytes, where: str, names: Sequence[str]) -> dict[str, list[Any]]:
    """Return the named lists of a JSON object; their content is unchecked."""
    document = read_json(data, where)
    if not isinstance(document, dict) or not all(isinstance(document.get(name), list) for name in names):
        hint = " For PhraseCut give --format phrasecut." if isinstance(document, list) and "images" in names else ""
        raise ConfigError(f"{where} is not COCO JSON. It must be an object with the lists {' and '.join(names)}.{hint}")
    return {name: document[name] for name in names}


def _image(row: Mapping[str, Any], where: str) -> tuple[str, tuple[int, int] | None]:
    """Return path and (H, W) in pixels; None if the size is not stated."""
    name = row.get("file_name")
    # Tools on Windows write `\` for `/`, so it is replaced. A drive letter becomes a leading slash, which is refused.
    if isinstance(name, str) and "\\" in name:
        name = f"{'/' if PureWindowsPath(name).drive else ''}{name}".replace("\\", "/")
    path = relative_path(name, where=where)
    height, width = row.get("height"), row.get("width")
    if height is None and width is None:
        return path, None
    if not all(isinstance(side, int) and 0 < side <= _MAX_SIDE_PX for side in (height, width)):
        raise ConfigError(
            f"{where} has the size {shown(height)} x {shown(width)}. Give both as whole numbers, or neither."
        )
    return path, (int(height or 0), int(width or 0))


def _id(row: Any, where: str, *, may_be_text: bool) -> int | str:
    value = _whole(row.get("id")) if isinstance(row, dict) else None
    if isinstance(value, bool) or not (isinstance(value, int) or (may_be_text and isinstance(value, str))):
        raise ConfigError(f"{where} has the id {shown(value)}. A whole number is needed.")
    return value


def _whole(value: Any) -> Any:
    """Return 1 for 1.0, which pandas writes where a column of ids has gaps; any other value as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
