"""Whether what is read back is what was written: one digest of all masks and texts, in their order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256

from schemas.errors import TransientError


class Fingerprint:
    """A digest that grows with every mask; equal ones mean equal masks, texts and order.

    Attributes:
        num_masks: Added so far.
        num_texts: Of all of them.
    """

    def __init__(self) -> None:
        self._digest = sha256()
        self.num_masks = 0
        self.num_texts = 0

    def add(self, name: str, size: Sequence[int], counts: str, texts: Sequence[str]) -> None:
        """Add a mask.

        Args:
            name: Of its image's file.
            size: (height, width).
            counts: COCO compressed run-length encoding, canonical: what pycocotools gives for the pixels, where the
                format holds pixels.
            texts: Its expressions.
        """
        self._digest.update(json.dumps([name, *map(int, size), counts, list(texts)]).encode())
        self.num_masks += 1
        self.num_texts += len(texts)

    def check_equals(self, read: Fingerprint, where: str) -> None:
        """Compare with what was read back.

        Raises:
            TransientError: Something differs; `where` names the file or folder.
        """
        due, found = (self.num_masks, self.num_texts), (read.num_masks, read.num_texts)
        if due != found:
            raise TransientError(
                f"{where} reads back as {found[0]:,} masks with {found[1]:,} expressions, written were {due[0]:,} "
                f"with {due[1]:,}: run the same command again"
            )
        if self._digest.digest() != read._digest.digest():
            raise TransientError(f"{where} does not read back as it was written: run the same command again")
