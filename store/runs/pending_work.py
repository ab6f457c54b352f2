"""The pending work of a run: shards without a receipt, or shards with quarantined images to compute again."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.run_records import Receipt, RunHeader
from pseudoris.schemas.tables import FAILURE_REASONS, FINAL_REASONS


@dataclass(frozen=True, slots=True)
class PendingWork:
    """The shards that a session works on.

    Attributes:
        shards: Their numbers in the plan, in the order in which they should begin.
        base_generations: In a retry, the generation by shard that it starts from; otherwise empty.
        num_images: In a retry, how many images are computed again; otherwise 0.
    """

    shards: Sequence[int]
    base_generations: Mapping[int, int] = field(default_factory=dict)
    num_images: int = 0


def missing_shards(header: RunHeader, latest: Mapping[int, int], tried: Collection[int] = frozenset()) -> PendingWork:
    """Return the planned shards that are not committed.

    Args:
        header: Of the run.
        latest: The latest generation by shard.
        tried: Shards that a session began and did not commit. They come last: if they fail again, it is after others.
    """
    missing = [shard for shard in range(header.num_shards) if shard not in latest]
    return PendingWork(sorted(missing, key=lambda shard: shard in tried))


def quarantined_shards(receipts: Iterable[Receipt], reasons: frozenset[str] | None) -> PendingWork:
    """Return the retry of the images in quarantine for one of `reasons`, or for any reason; one pass."""
    base_generations: dict[int, int] = {}
    num_images = 0
    for receipt in receipts:
        if count := num_to_retry(receipt, reasons):
            base_generations[receipt.shard] = receipt.generation
            num_images += count
    return PendingWork(list(base_generations), base_generations, num_images)


def num_to_retry(receipt: Receipt, reasons: frozenset[str] | None) -> int:
    """Return how many images of the shard are in quarantine for one of `reasons`, or for any reason."""
    return sum(count for reason, count in receipt.counts.reasons.items() if is_retried(reason, reasons))


def is_retried(reason: str, reasons: frozenset[str] | None) -> bool:
    """Return whether a retry of `reasons`, or of any reason, computes an image again that has this reason code."""
    return reason not in FINAL_REASONS and (reasons is None or reason in reasons)


def parse_reasons(words: Iterable[str] | None) -> frozenset[str] | None:
    """Return words such as "missing" as reason codes; None for None.

    Raises:
        ConfigError: One is not a reason code, or of images that are never retried.
    """
    if words is None:
        return None
    reasons = frozenset(word.strip() for word in words)
    unknown = sorted(reasons - FAILURE_REASONS.keys())
    if unknown:
        raise ConfigError(f"{unknown[0]!r} is not a quarantine reason: the reasons are {', '.join(FAILURE_REASONS)}")
    if final := sorted(reasons & FINAL_REASONS):
        raise ConfigError(
            f"images quarantined as {final[0]!r} are never retried: a benchmark tests on them. To annotate them, name "
            "another output and leave --exclude out"
        )
    return reasons
