"""The REFER layout, RefCOCO's and its kin's: `refs(<splitBy>).p`, a pickle, beside `instances.json`.

Of a sentence `sent` is read, which most trainers learn from, or `raw` if it is missing. Only objects with a reference
in the requested splits are read. The pickle's file names are ignored, as usual for this format.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.ids import sha256_hex
from pseudoris.training.imports.coco import AnnotationEntry, CocoTables, read_coco_tables
from pseudoris.training.imports.human_annotation import Annotation, HumanImage, HumanMask, LeftOut, clean_texts, shown
from pseudoris.training.untrusted_pickle import load_plain

INSTANCES_NAME: Final = "instances.json"


def read_refer(refs: bytes, instances: bytes, *, refs_name: str, splits: Sequence[str]) -> Annotation:
    """Return the objects that the references of `splits` speak of, and their images.

    Args:
        refs: The pickle of references, whole.
        instances: The document of instances, whole.
        refs_name: The pickle's name, for messages and digests.
        splits: Which references: `train`, `val`, `test`, `testA`, `testB`.

    Raises:
        ConfigError: A file is not of the format, they do not belong together, or a split has no reference.
    """
    tables = read_coco_tables(instances, INSTANCES_NAME)
    left_out = LeftOut()
    sentences: defaultdict[int, list[Any]] = defaultdict(list)
    for annotation_id, said in _chosen(load_plain(refs, refs_name), tables, refs_name, splits):
        sentences[annotation_id] += said
    left_out.add("objects that nobody of these splits refers to", len(tables.annotations) - len(sentences))
    masks: defaultdict[str, list[HumanMask]] = defaultdict(list)
    for entry in tables.annotations:
        if entry.annotation_id in sentences:
            masks[entry.path].append(_mask(entry, sentences[entry.annotation_id], left_out, refs_name))
    images = tuple(HumanImage(path, tables.sizes[path], tuple(found)) for path, found in masks.items())
    digests = {refs_name: sha256_hex(refs), INSTANCES_NAME: sha256_hex(instances)}
    return Annotation(images, digests, left_out)


def _chosen(refs: Any, tables: CocoTables, name: str, splits: Sequence[str]) -> Iterator[tuple[int, list[Any]]]:
    """Yield annotation id and sentences of each reference of the splits."""
    if not isinstance(refs, list):
        raise ConfigError(f"{name} has {shown(refs)}. A list of references is needed.")
    known = {entry.annotation_id: entry for entry in tables.annotations}
    found: Counter[str] = Counter()
    for place, ref in enumerate(refs):
        where = f"{name}: reference {place}"
        if not isinstance(ref, dict) or not isinstance(ref.get("split"), str):
            raise ConfigError(f"{where} has no split. It needs train, val, test, testA or testB.")
        found[ref["split"]] += 1
        if ref["split"] in splits:
            yield _annotation_of(ref, known, tables, where), _sentences(ref, where)
    absent = [split for split in splits if not found[split]]
    if absent:
        there = ", ".join(f"{split} ({count:,})" for split, count in sorted(found.items())) or "none"
        raise ConfigError(
            f"{name} has no reference of split {absent[0]!r}. Its splits are {there}. Choose one with --split."
        )


def _annotation_of(ref: Mapping[str, Any], known: Mapping[int, AnnotationEntry], tables: CocoTables, where: str) -> int:
    annotation_id, image_id = ref.get("ann_id"), ref.get("image_id")
    if not isinstance(annotation_id, int) or annotation_id not in known:
        raise ConfigError(
            f"{where} names ann_id {shown(annotation_id)}, which is not in {INSTANCES_NAME}. The two files must "
            "belong to one dataset."
        )
    path = tables.paths.get(image_id) if isinstance(image_id, int | str) else None
    if path != known[annotation_id].path:
        raise ConfigError(
            f"{where} names image_id {shown(image_id)}, but its annotation {annotation_id} belongs to another image. "
            "The two files must belong to one dataset."
        )
    return annotation_id


def _sentences(ref: Mapping[str, Any], where: str) -> list[Any]:
    sentences = ref.get("sentences")
    if not isinstance(sentences, list | tuple) or not all(isinstance(each, dict) for each in sentences):
        raise ConfigError(f"{where} has the sentences {shown(sentences)}. A list of dicts with `sent` is needed.")
    return [each["sent"] if "sent" in each else each.get("raw") for each in sentences]


def _mask(entry: AnnotationEntry, sentences: Sequence[Any], left_out: LeftOut, name: str) -> HumanMask:
    texts = clean_texts(sentences, left_out, where=f"{name}: a sentence of annotation {entry.annotation_id}")
    return HumanMask(entry.index, entry.annotation_id, entry.row.get("segmentation"), texts)
