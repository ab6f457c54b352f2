"""Sums over the receipts of a run, in one place for summaries and status."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from pseudoris.schemas.run_records import Receipt


@dataclass(frozen=True, slots=True)
class RunTotals:
    """Counts over all committed shards of a run, whenever they were committed.

    Attributes:
        images: annotated + empty + quarantined.
        reasons: Quarantined images by reason code, most frequent first.
        samples: Drawn candidate captions, equal ones counted each time (44 per mask under the paper's settings).
        expressions: Distinct candidates: equal captions of a mask count once.
        kept: Expressions above tau.
        kept_lone: Of these, captions of masks alone in their image, which no filter compared.
        output_bytes: Size of the parts that receipts name.
        repeats: How many times a pool repeated its work on a shard after a loss.
        retried: Shards whose latest generation is a retry of quarantined images.
        degraded: Shards for which settings were lowered.
        mixed: Shards computed under another identity than the run's.
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
    kept_lone: int = 0
    output_bytes: int = 0
    repeats: int = 0
    retried: int = 0
    degraded: int = 0
    mixed: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_fruitless(self) -> bool:
        """Whether images were committed, and all of them are quarantined."""
        return self.images == self.quarantined > 0


class Totals:
    """Sums up receipts."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._seconds: Counter[str] = Counter()

    def add(self, receipt: Receipt) -> None:
        """Count the shard of `receipt`; add each shard only once."""
        self._count(receipt, 1)

    def remove(self, receipt: Receipt) -> None:
        """Subtract a receipt that was added, because its shard has a higher generation now."""
        self._count(receipt, -1)

    def _count(self, receipt: Receipt, sign: int) -> None:
        counts = receipt.counts.model_dump(exclude={"reasons"})
        size = sum(part.size_bytes for part in receipt.parts.values())
        outside = {"repeats": receipt.num_repeats, "degraded": bool(receipt.degraded), "mixed": bool(receipt.mixed)}
        retried = {"retried": receipt.generation > 0}
        whole = {"shards": 1, "output_bytes": size, **retried, **outside, **counts}
        self._counts.update({name: sign * value for name, value in whole.items()})
        self._reasons.update({reason: sign * count for reason, count in receipt.counts.reasons.items()})
        for stage, seconds in receipt.seconds.items():
            self._seconds[stage] += sign * seconds  # type: ignore[assignment]  # a Counter sums floats as well

    @property
    def images(self) -> int:
        """Images so far."""
        return self._counts["images"]

    def sum(self) -> RunTotals:
        """Return the totals so far."""
        reasons = {reason: count for reason, count in self._reasons.most_common() if count}
        return RunTotals(**self._counts, reasons=reasons, seconds=dict(self._seconds))
