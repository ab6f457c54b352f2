"""COCO JSON: every object of every image, with the captions that its annotation carries, if any.

annotations[]: id, image_id, segmentation, iscrowd, and `caption` (a text) or `captions` (a list of texts)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Mapping
from typing import Any

from schemas.errors import ConfigError
from schemas.ids import sha256_hex
from training.imports.annotation import Annotation, HumanImage, HumanMask, LeftOut, clean_texts, shown
from training.imports.documents import CocoTables, read_coco_tables, read_lists


def read_coco(data: bytes, name: str, captions: bytes | None = None, captions_name: str = "") -> Annotation:
    """Return what a COCO JSON document holds: all of its images, also those without an object.

    Crowd regions are no objects that an expression could refer to: they are left out and counted.

    Args:
        data: The document, whole.
        name: Its file's name, for messages and digests.
        captions: A document of captions by instance, whole; None where there is none.
        captions_name: Its file's name.

    Raises:
        ConfigError: It is no COCO JSON, or a caption is no text, or of no object.
    """
    tables = read_coco_tables(data, name)
    left_out = LeftOut()
    left_out.add("images listed twice", len(tables.paths) - len(tables.sizes))
    digests = {name: sha256_hex(data)}
    said: Mapping[int, list[Any]] = {}
    if captions is not None:
        digests[f"{captions_name} (captions)"] = sha256_hex(captions)
        said = _by_instance(captions, captions_name, {entry.annotation_id for entry in tables.annotations})
    masks: defaultdict[str, list[HumanMask]] = defaultdict(list)
    for entry in tables.annotations:
        if entry.is_crowd:
            left_out.add("crowd regions")
            continue
        where = f"{name}: annotation {entry.annotation_id}"
        every = [*_captions(entry.row, where), *said.get(entry.annotation_id, ())]
        texts = clean_texts(every, left_out, where=where)
        masks[entry.path].append(HumanMask(entry.index, entry.annotation_id, entry.row.get("segmentation"), texts))
    return Annotation(_images(tables, masks), digests, left_out)


def _by_instance(data: bytes, name: str, known: Container[int]) -> dict[int, list[Any]]:
    """Return the captions of each object, in the file's order."""
    found: defaultdict[int, list[Any]] = defaultdict(list)
    for place, row in enumerate(read_lists(data, name, ("annotations",))["annotations"]):
        instance = row.get("instance_id") if isinstance(row, dict) else None
        if not isinstance(instance, int) or instance not in known:
            raise ConfigError(
                f"{name}: annotations[{place}] is a caption of instance_id {shown(instance)}, which is no object of "
                "the instances: captions of whole images cannot be imported"
            )
        found[instance].append(row.get("caption"))
    return found


def _images(tables: CocoTables, masks: Mapping[str, list[HumanMask]]) -> tuple[HumanImage, ...]:
    return tuple(HumanImage(path, size, tuple(masks.get(path, ()))) for path, size in tables.sizes.items())


def _captions(row: Mapping[str, Any], where: str) -> list[Any]:
    captions = row.get("captions") or []
    if not isinstance(captions, list):
        raise ConfigError(f"{where} has the captions {shown(captions)}: a list of texts is needed")
    caption = row.get("caption")
    return captions if caption is None else [caption, *captions]
