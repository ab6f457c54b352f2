"""How far a run has come, from its header and its receipts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from schemas.errors import ConfigError
from store.header import read_header
from store.location import RunLocation
from store.manifest import cached_receipts


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
    header = read_header(location)
    if header is None:
        raise ConfigError(f"there is no run at {location.root}: start one with `pseudoris annotate SOURCE OUT`")
    totals, reasons, seconds = Counter[str](), Counter[str](), Counter[str]()
    num_done = size_bytes = 0
    for receipt in cached_receipts(location):
        num_done += 1
        totals.update(receipt.counts.model_dump(exclude={"reasons"}))
        reasons.update(receipt.counts.reasons)
        for stage, value in receipt.seconds.items():
            # Counter is typed for whole numbers; a stage's seconds are not.
            seconds[stage] += value  # type: ignore[assignment]
        size_bytes += sum(part.size_bytes for part in receipt.parts.values())
    return RunStatus(
        source=header.source,
        num_shards=header.num_shards,
        num_done=num_done,
        num_images=header.num_images,
        num_images_done=totals["images"],
        annotated=totals["annotated"],
        empty=totals["empty"],
        quarantined=totals["quarantined"],
        masks=totals["masks"],
        expressions=totals["expressions"],
        samples=totals["samples"],
        kept=totals["kept"],
        reasons=dict(reasons.most_common()),
        seconds=dict(seconds),
        size_bytes=size_bytes,
    )
