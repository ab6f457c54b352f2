"""What every task and actor of a run must know; small, frozen, and sent to the cluster once."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from schemas.config import RunConfig
from schemas.run import RunHeader
from store.location import RunLocation


@dataclass(frozen=True, slots=True)
class Retry:
    """A start that computes quarantined images alone.

    Attributes:
        generations: By shard, the generation that the retry starts from. Fixed when it starts: a shard that is done
            twice, after a loss, must not retry its own retry.
        reasons: Only images quarantined for one of these; None for all.
    """

    generations: Mapping[int, int]
    reasons: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A planned run, as its workers see it.

    Attributes:
        source: SOURCE, the one that the run was planned from; a local one as an absolute path.
        location: Where the run lives.
        header: Its plan and identity.
        config: The configuration of this start: the header's method, this start's placement.
        may_grow: Whether nodes may join the cluster while the run goes on.
        start: A nonce of this start of the run: attempts of other starts blame nobody.
        retry: None where shards are computed for the first time.
    """

    source: str
    location: RunLocation
    header: RunHeader
    config: RunConfig
    may_grow: bool = field(default=False, kw_only=True)
    start: str = field(default_factory=lambda: secrets.token_hex(6), kw_only=True)
    retry: Retry | None = field(default=None, kw_only=True)
