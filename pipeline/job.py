"""What every task and actor of a run needs to know. Small, frozen, and sent to the cluster once."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.run_records import RunHeader
from pseudoris.store.location import RunLocation


@dataclass(frozen=True, slots=True)
class Retry:
    """A session that only computes quarantined images again.

    Attributes:
        generations: By shard, the generation that the retry starts from. Fixed when it starts: a shard that is
            processed twice, after a loss, must not retry its own retry.
        reasons: Only retry images quarantined for one of these reasons; None for all.
    """

    generations: Mapping[int, int]
    reasons: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A planned run, as its workers see it.

    Attributes:
        source: The SOURCE that the run was planned from; a local one as an absolute path.
        location: The run's folder.
        header: Names the run's plan and identity.
        config: The configuration of this session: the header's method with this session's placement.
        may_grow: Whether nodes may join the cluster during the run.
        session_nonce: Identifies this session. Attempts of other sessions count against no image.
        retry: None if shards are computed for the first time.
    """

    source: str
    location: RunLocation
    header: RunHeader
    config: RunConfig
    may_grow: bool = field(default=False, kw_only=True)
    session_nonce: str = field(default_factory=lambda: secrets.token_hex(6), kw_only=True)
    retry: Retry | None = field(default=None, kw_only=True)
