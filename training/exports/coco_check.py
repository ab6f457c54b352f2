"""Reads a COCO export back, both files side by side: they are in one order, so memory holds one image's masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import groupby, takewhile, zip_longest
from operator import itemgetter
from typing import Any, Final

from store.location import RunLocation
from training.exports.fingerprints import Fingerprint
from training.exports.json_arrays import iter_json_arrays
from training.exports.mask_checks import RisingIds, broken, check_mask, check_texts
from training.exports.protocol import CHECKING, OnProgress

_TOLD_EVERY: Final = 1_000


def check_coco(
    destination: RunLocation, instances: str, captions: str, *, due: Fingerprint, on_progress: OnProgress
) -> None:
    """Read images, masks and captions, and compare them with what was written.

    Raises:
        TransientError: Something is not as it was written; the message says which record.
    """
    where = destination.uri(instances)
    with ExitStack() as stack:

        def elements(path: str, name: str) -> Iterator[dict[str, Any]]:
            file = stack.enter_context(destination.open_input(path))
            return _elements(iter_json_arrays(file, destination.uri(path)), name)

        texts = _Captions(elements(captions, "annotations"), destination.uri(captions))
        image_ids, mask_ids, found = RisingIds(where), RisingIds(where), Fingerprint()
        # Each reader has its own place in the file: two of them walk through the instances at once.
        masks = groupby(elements(instances, "annotations"), key=itemgetter("image_id"))
        pictures = zip_longest(elements(instances, "images"), elements(captions, "images"))
        for (image, same), (image_id, of_image) in zip_longest(pictures, masks, fillvalue=(None, ())):
            if image is None or image != same or image_ids.check(image["id"]) != image_id:
                raise broken(where, f"its images, those of the captions and its masks part at image {image_id}")
            size = (image["height"], image["width"])
            for annotation in of_image:
                number = mask_ids.check(annotation["id"])
                counts = check_mask(annotation, size, f"{where}, annotation {number}")
                found.add(image["file_name"], size, counts, texts.take(number, image_id))
                if found.num_masks % _TOLD_EVERY == 0:
                    on_progress(found.num_masks, due.num_masks, CHECKING)
        texts.check_end()
    on_progress(found.num_masks, due.num_masks, CHECKING)
    due.check_equals(found, where)


def _elements(pairs: Iterator[tuple[str, dict[str, Any]]], name: str) -> Iterator[dict[str, Any]]:
    if name == "images":
        # The first array: behind it there is nothing to look for. The last one is read to the file's end, so that a
        # file cut short is found.
        pairs = takewhile(lambda pair: pair[0] == name, pairs)
    return (element for array, element in pairs if array == name)


class _Captions:
    """The captions in their order, given out mask by mask."""

    def __init__(self, captions: Iterator[Mapping[str, Any]], where: str) -> None:
        self._captions = captions
        self._where = where
        self._ids = RisingIds(where)
        self._next = next(captions, None)

    def take(self, instance_id: int, image_id: int) -> list[str]:
        """Return the texts of a mask; it may have none."""
        texts = []
        while self._next is not None and self._next["instance_id"] == instance_id:
            number = self._ids.check(self._next["id"])
            if self._next["image_id"] != image_id:
                raise broken(self._where, f"caption {number} and its mask {instance_id} are of two images")
            texts.append(self._next["caption"])
            self._next = next(self._captions, None)
        return check_texts(texts, f"{self._where}, mask {instance_id}")

    def check_end(self) -> None:
        """Raise where captions of no mask, or of an earlier one, are left."""
        if self._next is not None:
            raise broken(self._where, f"caption {self._next['id']} is of no mask of the instances")
