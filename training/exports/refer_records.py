"""The records of a REFER dataset, and the check that reads them back as the loaders do.

Records hold only plain Python values. `loadRefs` and similar loaders test `type(x) == int`, so a numpy number would
give None there, and a pickle with a numpy number needs a matching version of numpy.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

from pseudoris.schemas.errors import ConfigError, TransientError
from pseudoris.schemas.shard import is_blank
from pseudoris.store.location import RunLocation
from pseudoris.store.tables.annotations import AnnotatedImage, AnnotatedMask
from pseudoris.store.tables.rle import summarise_rle
from pseudoris.training.exports.json_arrays import iter_json_arrays
from pseudoris.training.exports.mask_encodings import box_xywh, rle_of
from pseudoris.training.exports.protocol import CHECKING, OnProgress
from pseudoris.training.exports.read_back import Fingerprint
from pseudoris.training.untrusted_pickle import load_plain
from pseudoris.workers.masks.segmentation_forms import compressed_counts

MAX_PICKLE_PROTOCOL: Final = 4
_PROGRESS_EVERY: Final = 1_000


def _from_one() -> Iterator[int]:
    return count(1)


@dataclass(frozen=True, slots=True)
class RecordIds:
    """The next id of each kind: from 1, in the order of the plan, the run's before a human's."""

    image: Iterator[int] = field(default_factory=_from_one)
    annotation: Iterator[int] = field(default_factory=_from_one)
    ref: Iterator[int] = field(default_factory=_from_one)
    sentence: Iterator[int] = field(default_factory=_from_one)


def image_record(image_id: int, image: AnnotatedImage, file_name: str) -> dict[str, Any]:
    """Return an element of `images`."""
    return {"id": image_id, "file_name": file_name, "height": int(image.height), "width": int(image.width)}


def annotation_record(annotation_id: int, image_id: int, category_id: int, mask: AnnotatedMask) -> dict[str, Any]:
    """Return an element of `annotations`."""
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": box_xywh(mask),
        "area": int(mask.area_px),
        # In a list: REFER checks the first element to distinguish an encoding from polygons, and fails on a bare dict.
        "segmentation": [rle_of(mask)],
        "iscrowd": 0,
    }


def ref_record(
    numbers: RecordIds, annotation: dict[str, Any], *, file_name: str, split: str, texts: Sequence[str]
) -> dict[str, Any]:
    """Return an element of the refs file; both `sent` and `raw` hold the text, since trainers read one or the other."""
    sentences = [
        {"sent_id": next(numbers.sentence), "sent": text, "raw": text, "tokens": text.split()} for text in texts
    ]
    return {
        "ref_id": next(numbers.ref),
        "ann_id": annotation["id"],
        "image_id": annotation["image_id"],
        "category_id": annotation["category_id"],
        "split": split,
        "sent_ids": [sentence["sent_id"] for sentence in sentences],
        "sentences": sentences,
        "file_name": file_name,
    }


def canonical(segmentation: Any) -> str:
    """Return a mask in `instances.json` as one text, equal for equal ones."""
    return json.dumps(segmentation, sort_keys=True)


def check_refer(
    destination: RunLocation, refs_path: str, instances_path: str, *, due: Fingerprint, on_progress: OnProgress
) -> None:
    """Read references and instances; the references, all in memory, as a trainer holds them.

    Raises:
        TransientError: Something is not as it was written, or a loader would fail on it; the message says which record.
    """
    where = destination.uri(refs_path)
    refs = _read_refs(destination, refs_path)
    _check_refs(refs, where)
    by_annotation: defaultdict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for ref in refs:
        by_annotation[ref["ann_id"]].append(ref)
    images: dict[int, Mapping[str, Any]] = {}
    found = Fingerprint()
    uri = destination.uri(instances_path)
    with destination.open_input(instances_path) as file:
        for name, element in iter_json_arrays(file, uri):
            if name == "images":
                _add_image(images, element, uri)
            elif name == "annotations":
                of_mask = by_annotation.pop(element["id"], [])
                _check_annotation(element, of_mask, images, uri)
                image = images[element["image_id"]]
                texts = [sentence["sent"] for ref in of_mask for sentence in ref["sentences"]]
                size = (image["height"], image["width"])
                found.add(image["file_name"], size, canonical(element["segmentation"]), texts)
                if found.num_masks % _PROGRESS_EVERY == 0 or found.num_masks == due.num_masks:
                    on_progress(found.num_masks, due.num_masks, CHECKING)
    if by_annotation:
        raise TransientError(_wrong(where, f"{len(by_annotation)} references name masks that are not in {uri}"))
    if len({image["file_name"] for image in images.values()}) != len(images):
        raise TransientError(_wrong(uri, "two images share a file"))
    due.check_equals(found, destination.root)


def _read_refs(destination: RunLocation, path: str) -> list[dict[str, Any]]:
    where = destination.uri(path)
    data = destination.read_bytes(path)
    # Protocols from 2 on begin with their number; older ones are read everywhere.
    if data[:1] == b"\x80" and data[1] > MAX_PICKLE_PROTOCOL:
        raise TransientError(_wrong(where, f"it has pickle protocol {data[1]}, which the trainers' Python cannot read"))
    try:
        refs: list[dict[str, Any]] = load_plain(data, where)
    except ConfigError as error:
        raise TransientError(_wrong(where, str(error))) from error
    return refs


def _check_refs(refs: Iterable[Mapping[str, Any]], where: str) -> None:
    ref_ids, sentence_ids = set[int](), set[int]()
    num_refs = num_sentences = 0
    for ref in refs:
        texts = [sentence[key] for sentence in ref["sentences"] for key in ("sent", "raw")]
        ids = [ref["ref_id"], ref["ann_id"], ref["image_id"], ref["category_id"], *ref["sent_ids"]]
        if not texts or not all(type(text) is str and not is_blank(text) for text in texts):
            raise TransientError(_wrong(where, f"reference {ref['ref_id']} has no text, or an empty one"))
        if not all(type(each) is int for each in ids):
            raise TransientError(_wrong(where, f"reference {ref['ref_id']} has an id that is not a plain int"))
        if ref["sent_ids"] != [sentence["sent_id"] for sentence in ref["sentences"]]:
            raise TransientError(_wrong(where, f"sent_ids and sentences of reference {ref['ref_id']} differ"))
        ref_ids.add(ref["ref_id"])
        sentence_ids.update(ref["sent_ids"])
        num_refs += 1
        num_sentences += len(ref["sent_ids"])
    if (len(ref_ids), len(sentence_ids)) != (num_refs, num_sentences):
        raise TransientError(_wrong(where, "two references, or two sentences, share an id"))


def _add_image(images: dict[int, Mapping[str, Any]], image: Mapping[str, Any], uri: str) -> None:
    if image["id"] in images:
        raise TransientError(_wrong(uri, f"two images have the id {image['id']}"))
    images[image["id"]] = image


def _check_annotation(
    annotation: Mapping[str, Any], refs: list[Mapping[str, Any]], images: Mapping[int, Mapping[str, Any]], uri: str
) -> None:
    if not refs:
        raise TransientError(_wrong(uri, f"annotation {annotation['id']} has no reference"))
    if annotation["image_id"] not in images or any(ref["image_id"] != annotation["image_id"] for ref in refs):
        raise TransientError(_wrong(uri, f"annotation {annotation['id']} names an image that does not exist"))
    segmentation = annotation["segmentation"]
    if not isinstance(segmentation, list) or not segmentation:
        raise TransientError(_wrong(uri, f"the mask of annotation {annotation['id']} is not a list, or is empty"))
    image = images[annotation["image_id"]]
    size = (image["height"], image["width"])
    try:
        counts = compressed_counts(segmentation, size)
        area = 0 if counts is None else summarise_rle(*size, counts).area_px
    except ValueError as error:
        raise TransientError(_wrong(uri, f"the mask of annotation {annotation['id']}: {error}")) from error
    if not area:
        raise TransientError(_wrong(uri, f"the mask of annotation {annotation['id']} has no pixel"))


def _wrong(where: str, what: str) -> str:
    return f"{where} cannot be read back: {what}. Run the same command again."
