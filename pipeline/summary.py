"""What a run tells: events while it goes, a plan before it, a summary after it. Plain data, no printing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.extending import ExtensionTally
from schemas.run import Receipt
from schemas.tables import EXPRESSIONS, SCHEMAS
from store.totals import RunTotals


@dataclass(frozen=True, slots=True)
class Planned:
    """The plan stands and work begins. Of a retry all figures are about what is retried.

    Attributes:
        num_images: Images in the plan.
        num_images_done: Images of the shards that were committed before this start.
        num_shards: Shards in the plan.
        num_shards_done: Shards that were committed before this start.
        actors: Actors by pool.
        is_retry: Whether quarantined images alone are computed.
    """

    num_images: int
    num_images_done: int
    num_shards: int
    num_shards_done: int
    actors: Mapping[str, int]
    is_retry: bool = False


@dataclass(frozen=True, slots=True)
class Committed:
    """A shard's commit has landed; its images count from now on."""

    receipt: Receipt


@dataclass(frozen=True, slots=True)
class Retried:
    """The retry of a shard has ended; with a new generation, or without one where nothing has changed.

    Attributes:
        receipt: The one that stands now.
        num_images: Images that were computed again.
        num_recovered: Images that are not in quarantine any more.
    """

    receipt: Receipt
    num_images: int
    num_recovered: int


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that the user should know and need not mend."""

    text: str


RunEvent = Planned | Committed | Retried | Notice
OnEvent = Callable[[RunEvent], None]


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What `annotate` would do: the answer of a dry run. Nothing was written.

    Attributes:
        source: SOURCE as given.
        out: Where the run would live.
        num_images: Images planned.
        num_repeated: Listings whose key had been listed already.
        num_shards: Shards planned.
        num_shards_done: Shards that are committed already; 0 where OUT holds no run.
        input_bytes: Sum of the listed sizes.
        actors: Actors by pool.
        weights: By stage, where they come from and their sha256.
        device_kind: The device that the identity was measured on.
        output_bytes: Estimated size of the tables.
        output_basis: What the estimate rests on.
        extension: With `--extend`, what a second listing shows; the figures above are then about the plan with it.
        num_to_retry: With `--retry-failed`, how many images would be computed again.
    """

    source: str
    out: str
    num_images: int
    num_repeated: int
    num_shards: int
    num_shards_done: int
    input_bytes: int
    actors: Mapping[str, int]
    weights: Mapping[str, tuple[str, str]]
    device_kind: str
    output_bytes: int
    output_basis: str
    extension: ExtensionTally | None = None
    num_to_retry: int | None = None


@dataclass(frozen=True, slots=True)
class RetryTally:
    """What a retry has come to.

    Attributes:
        num_images: Images that were computed again.
        num_recovered: Of them, not in quarantine any more.
        num_shards: Shards that hold them.
        num_shards_changed: Of them, with a new generation.
    """

    num_images: int = 0
    num_recovered: int = 0
    num_shards: int = 0
    num_shards_changed: int = 0


@dataclass(frozen=True, slots=True)
class RunSummary:
    """How a run stands after one start of it.

    Attributes:
        out: Where the run lives.
        totals: Over all committed shards.
        num_planned_images: Images in the plan; equal to `totals.images` when the run is complete.
        num_planned_shards: Shards in the plan.
        num_shards_before: Shards that were committed when this start began.
        num_images_now: Images that this start committed.
        wall_s: Seconds from the start of the graph to its end.
        tables: By table, the glob that reads it once the run is complete.
        interrupted: Whether Ctrl-C or SIGTERM ended this start.
        retry: What a retry has come to; None where shards were computed for the first time.
    """

    out: str
    totals: RunTotals
    num_planned_images: int
    num_planned_shards: int
    num_shards_before: int
    num_images_now: int
    wall_s: float
    tables: Mapping[str, str]
    interrupted: bool = False
    retry: RetryTally | None = None

    @property
    def is_complete(self) -> bool:
        """Whether every planned shard is committed."""
        return self.totals.shards == self.num_planned_shards

    @property
    def images_per_second(self) -> float:
        """Images that this start committed, by its wall time; 0.0 where it had nothing to do."""
        return self.num_images_now / self.wall_s if self.wall_s > 0 else 0.0


def table_globs(uri_of: Callable[[str], str]) -> dict[str, str]:
    """Return the glob of each table by name, expressions first: what people look at."""
    names = sorted(SCHEMAS, key=lambda name: name != EXPRESSIONS)
    return {name: uri_of(f"{name}/*.parquet") for name in names}
