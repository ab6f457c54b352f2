"""What every task and actor of a run must know; small, frozen, and sent to the cluster once."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.config import RunConfig
from schemas.run import RunHeader
from store.location import RunLocation


@dataclass(frozen=True, slots=True)
class Job:
    """A planned run, as its workers see it.

    Attributes:
        source: SOURCE, the one that the run was planned from; a local one as an absolute path.
        location: Where the run lives.
        header: Its plan and identity.
        config: The configuration of this start: the header's method, this start's placement.
    """

    source: str
    location: RunLocation
    header: RunHeader
    config: RunConfig
