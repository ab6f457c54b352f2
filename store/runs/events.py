"""Events of a run in progress. Plain data, no printing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pseudoris.schemas.run_records import Receipt


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
        num_images: Images in the plan.
        num_images_done: Images of the shards that earlier sessions committed.
        num_shards: Shards in the plan.
        num_shards_done: Shards that earlier sessions committed.
        actors: Actors by pool.
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
