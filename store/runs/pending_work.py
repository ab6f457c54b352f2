"""The pending work of a session, the events that it reports, and the shards that it sets aside.

Called by `store`, `pipeline` and `cli`. The events are public (`pseudoris.RunEvent`): users read their fields in
`on_event`, so a field keeps its name and meaning. A shard that failed alone is set aside, and the others are committed
first. A failure that every shard has must not be taken for one of many shards: the run stops if `MAX_IN_A_ROW` shards
fail and none is committed between them. A failure that was proven to be the shard's own is not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pseudoris.primitives.errors import ConfigError, PseudorisError, TransientError
from pseudoris.schemas.run_records import Receipt, RunHeader
from pseudoris.schemas.shard import ShardFault
from pseudoris.schemas.tables import FAILURE_REASONS, FINAL_REASONS


@dataclass(frozen=True, slots=True)
class Step:
    """A step before the first shard begins; it lasts until the next one, or until `Planned`.

    Attributes:
        name: For a person.
    """

    name: str


@dataclass(frozen=True, slots=True)
class Planned:
    """The plan exists and work begins. In a retry, all figures count only what is retried.

    Attributes:
        num_images_done: Images of the shards that earlier sessions committed.
        num_shards_done: Shards that earlier sessions committed.
        is_retry: Whether only quarantined images are computed.
    """

    num_images: int
    num_images_done: int
    num_shards: int
    num_shards_done: int
    actors: Mapping[str, int]
    is_retry: bool = False


@dataclass(frozen=True, slots=True)
class Committed:
    """A shard was committed; its images count from now on.

    Attributes:
        receipt: The shard's latest receipt.
        replaced: In a retry, the previous receipt; equal to `receipt` if the retry changed nothing. None if the shard
            was committed for the first time.
    """

    receipt: Receipt
    replaced: Receipt | None = None


@dataclass(frozen=True, slots=True)
class Retried:
    """The retry of a shard ended, with a new generation, or without one if nothing changed.

    Attributes:
        receipt: The shard's latest receipt.
        num_images: Images that were computed again.
        num_recovered: Images that are no longer in quarantine.
    """

    receipt: Receipt
    num_images: int
    num_recovered: int


@dataclass(frozen=True, slots=True)
class Notice:
    """Information for the user that requires no action."""

    text: str


RunEvent = Step | Planned | Committed | Retried | Notice
OnEvent = Callable[[RunEvent], None]


def ignore(event: RunEvent) -> None:
    """Ignore an event."""


MAX_IN_A_ROW: Final = 3
# An error shows at most this many faults, because the first few are enough to see the cause.
_MAX_SHOWN: Final = 10


class SetAside:
    """Collects the faults of one session."""

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._faults: list[ShardFault] = []
        self._row: list[ShardFault] = []
        self._has_commits = False

    def add(self, fault: ShardFault) -> None:
        """Set a shard aside, and tell the user; raise as `check` if it is one too many without a commit between."""
        self._faults.append(fault)
        if not fault.is_proven:
            self._row.append(fault)
        if len(self._row) == MAX_IN_A_ROW:
            raise _stopped(self._row)
        if len(self._faults) <= _MAX_SHOWN:
            self._on_event(Notice(f"shard {fault.shard} is set aside, the others go on: {fault.message}"))

    def end_row(self) -> None:
        """Note a commit: the faults before it are not those of every shard."""
        self._row.clear()
        self._has_commits = True

    def check(self) -> None:
        """Accept the end of the work if no shard is set aside.

        Otherwise raise ConfigError if the user must correct something for each of them, else TransientError.
        """
        if not self._faults:
            return
        if not self._has_commits:
            raise _stopped(self._faults)
        raise fault_error(
            self._faults,
            f"not committed: {_numbered(self._faults)}. All other shards are. Correct this, then run the same command "
            f"again: it computes only what is left\n{_lines(self._faults)}",
        )


def fault_error(faults: Sequence[ShardFault], text: str) -> PseudorisError:
    """Return the error of `faults`: a ConfigError if the user must correct something for each of them."""
    return ConfigError(text) if all(fault.is_config for fault in faults) else TransientError(text)


def _stopped(faults: Sequence[ShardFault]) -> PseudorisError:
    """Return the error of shards between which none was committed: most likely they failed for one reason."""
    messages = {fault.message for fault in faults}
    if len(messages) == 1:
        return fault_error(faults, messages.pop())
    return fault_error(faults, f"{_numbered(faults)} failed, and none was committed between them\n{_lines(faults)}")


def _numbered(faults: Sequence[ShardFault]) -> str:
    if len(faults) == 1:
        return f"shard {faults[0].shard}"
    numbers = ", ".join(str(fault.shard) for fault in faults[:_MAX_SHOWN])
    return f"{len(faults):,} shards ({numbers}{', …' if len(faults) > _MAX_SHOWN else ''})"


def _lines(faults: Sequence[ShardFault]) -> str:
    return "\n".join(f"  shard {fault.shard}: {fault.message}" for fault in faults[:_MAX_SHOWN])


@dataclass(frozen=True, slots=True)
class PendingWork:
    """The shards that a session works on.

    Attributes:
        shards: Their numbers in the plan, in the order in which they should begin.
        base_generations: In a retry, the generation by shard that it starts from; in a repair, that of the damaged
            shards; otherwise empty.
        num_images: In a retry, how many images are computed again; otherwise 0.
    """

    shards: Sequence[int]
    base_generations: Mapping[int, int] = field(default_factory=dict)
    num_images: int = 0


def missing_shards(header: RunHeader, latest: Mapping[int, int], tried: Collection[int] = frozenset()) -> PendingWork:
    """Return the planned shards that are not committed; `latest` has the latest generation by shard.

    Shards that a session has `tried` and not committed come last: if they fail again, it is after others.
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
    """Return words such as "missing" as reason codes, None for None; ConfigError if one is no reason to retry."""
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
