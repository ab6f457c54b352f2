"""Sums over receipts: what a run holds, added up in one place for summaries and status."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from schemas.run import Receipt


@dataclass(frozen=True, slots=True)
class RunTotals:
    """Counts over all committed shards of a run, whenever they were committed.

    Attributes:
        images: annotated + empty + quarantined.
        reasons: Quarantined images by reason code, most frequent first.
        samples: Candidate captions as drawn (44 a mask under the paper's settings).
        expressions: Distinct candidates: equal captions of a mask are one.
        kept: Expressions above tau.
        output_bytes: Size of the parts that receipts name.
        seconds: Wall seconds of the stages by name, summed over shards and so over actors.
    """

    shards: int = 0
    images: int = 0
    annotated: int = 0
    empty: int = 0
    quarantined: int = 0
    masks: int = 0
    samples: int = 0
    expressions: int = 0
    kept: int = 0
    output_bytes: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


class Totals:
    """Adds receipts up."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._seconds: Counter[str] = Counter()

    def add(self, receipt: Receipt) -> None:
        """Count the shard of `receipt`; a shard must be added once."""
        counts = receipt.counts.model_dump(exclude={"reasons"})
        size = sum(part.size_bytes for part in receipt.parts.values())
        self._counts.update({"shards": 1, "output_bytes": size, **counts})
        self._reasons.update(receipt.counts.reasons)
        for stage, seconds in receipt.seconds.items():
            self._seconds[stage] += seconds  # type: ignore[assignment]  # a Counter sums floats as well

    @property
    def images(self) -> int:
        """Images so far."""
        return self._counts["images"]

    def sum(self) -> RunTotals:
        """Return the totals so far."""
        return RunTotals(**self._counts, reasons=dict(self._reasons.most_common()), seconds=dict(self._seconds))
