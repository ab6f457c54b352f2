"""How far a run has come, from its header and its receipts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from store.header import require_header
from store.location import RunLocation
from store.manifest import cached_receipts
from store.totals import Totals


@dataclass(frozen=True, slots=True)
class RunStatus:
    """Sums over the standing receipts.

    Attributes:
        source: SOURCE as given.
        num_shards: Planned.
        num_done: Shards with a receipt.
        num_images: Planned.
        num_images_done: In shards with a receipt; annotated + empty + quarantined.
        masks: Masks of annotated images.
        expressions: Candidate rows, kept or not; equal captions of a mask are one.
        samples: Draws before that.
        kept: Candidates above tau.
        reasons: Quarantined images by reason code, most frequent first.
        seconds: Wall seconds by stage, summed over shards.
        size_bytes: Of all committed parts.
    """

    source: str
    num_shards: int
    num_done: int
    num_images: int
    num_images_done: int
    annotated: int
    empty: int
    quarantined: int
    masks: int
    expressions: int
    samples: int
    kept: int
    reasons: Mapping[str, int]
    seconds: Mapping[str, float]
    size_bytes: int

    @property
    def is_complete(self) -> bool:
        """Whether every planned shard is committed."""
        return self.num_done == self.num_shards


def run_status(location: RunLocation) -> RunStatus:
    """Return how far the run has come; reads the latest manifest and the receipts that it lacks.

    Raises:
        ConfigError: No run was started there, or its records cannot be used.
        TransientError: Storage failed.
    """
    header = require_header(location)
    totals = Totals()
    for receipt in cached_receipts(location):
        totals.add(receipt)
    done = totals.sum()
    return RunStatus(
        source=header.source,
        num_shards=header.num_shards,
        num_done=done.shards,
        num_images=header.num_images,
        num_images_done=done.images,
        annotated=done.annotated,
        empty=done.empty,
        quarantined=done.quarantined,
        masks=done.masks,
        expressions=done.expressions,
        samples=done.samples,
        kept=done.kept,
        reasons=done.reasons,
        seconds=done.seconds,
        size_bytes=done.output_bytes,
    )
