"""COCO JSON: every object of every image, with the captions that its annotation carries, if any.

annotations[]: id, image_id, segmentation, iscrowd, and `caption` (a text) or `captions` (a list of texts)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from schemas.errors import ConfigError
from schemas.ids import sha256_hex
from training.imports.annotation import Annotation, HumanImage, HumanMask, LeftOut, clean_texts, shown
from training.imports.documents import CocoTables, read_coco_tables


def read_coco(data: bytes, name: str) -> Annotation:
    """Return what a COCO JSON document holds: all of its images, also those without an object.

    Crowd regions are no objects that an expression could refer to: they are left out and counted.

    Args:
        data: The document, whole.
        name: Its file's name, for messages and digests.

    Raises:
        ConfigError: It is no COCO JSON, or a caption is no text.
    """
    tables = read_coco_tables(data, name)
    left_out = LeftOut()
    left_out.add("images listed twice", len(tables.paths) - len(tables.sizes))
    masks: defaultdict[str, list[HumanMask]] = defaultdict(list)
    for entry in tables.annotations:
        if entry.is_crowd:
            left_out.add("crowd regions")
            continue
        where = f"{name}: annotation {entry.annotation_id}"
        texts = clean_texts(_captions(entry.row, where), left_out, where=where)
        masks[entry.path].append(HumanMask(entry.index, entry.annotation_id, entry.row.get("segmentation"), texts))
    return Annotation(_images(tables, masks), {name: sha256_hex(data)}, left_out)


def _images(tables: CocoTables, masks: Mapping[str, list[HumanMask]]) -> tuple[HumanImage, ...]:
    return tuple(HumanImage(path, size, tuple(masks.get(path, ()))) for path, size in tables.sizes.items())


def _captions(row: Mapping[str, Any], where: str) -> list[Any]:
    captions = row.get("captions") or []
    if not isinstance(captions, list):
        raise ConfigError(f"{where} has the captions {shown(captions)}: a list of texts is needed")
    caption = row.get("caption")
    return captions if caption is None else [caption, *captions]
