"""The records of a run on storage: the header `_run.json` and the receipt of a committed shard."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, JsonValue, model_validator

from schemas.config import RunConfig
from schemas.frozen import FrozenModel
from schemas.tables import SCHEMAS

RUN_VERSION: Final = 1
RECEIPT_VERSION: Final = 1

PLAN_FOLDER: Final = "_plan"
RECEIPTS_FOLDER: Final = "_receipts"
MANIFEST_FOLDER: Final = "_manifest"
HEADER_NAME: Final = "_run.json"

Origin = Literal["annotate", "refilter", "import", "ppt"]


class PartRecord(FrozenModel):
    """One Parquet file by name: how many rows, how many bytes, and the sha256 of its bytes."""

    # Of one folder, or two: a record that somebody has edited must not lead out of the run.
    name: str = Field(pattern=r"^([\w-][\w.-]*/)?[\w-][\w.-]*$")
    rows: int = Field(ge=0)
    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Identity(FrozenModel):
    """What must be equal for two starts to belong to one run: it decides the tables' bytes.

    Attributes:
        method: `RunConfig.method()`.
        weights: sha256 by stage (`propose`, `caption`, `filter`).
        device_kind: Name of the GPU, or `cpu` with its vector capability; `none` where no model
            computes, as of an import.
        versions: Version by package, of what computes and what writes.
    """

    method: dict[str, JsonValue]
    weights: dict[str, str]
    device_kind: str
    versions: dict[str, str]

    def differences(self, other: Identity) -> list[str]:
        """Return one line a differing field, `compute.seed: 0 in the run, 1 now`; empty when equal."""
        mine, theirs = _flat(self.model_dump(mode="json")), _flat(other.model_dump(mode="json"))
        keys = sorted(mine.keys() | theirs.keys())
        return [
            f"{key.removeprefix('method.')}: {mine.get(key, 'absent')!r} in the run, {theirs.get(key, 'absent')!r} now"
            for key in keys
            if mine.get(key) != theirs.get(key)
        ]

    def mixed_differences(self, other: Identity) -> list[str]:
        """Return the lines of `differences` that `--allow-mixed` accepts: kind of device, versions of packages."""
        return self.differences(self.model_copy(update={"device_kind": other.device_kind, "versions": other.versions}))

    def method_differences(self, other: Identity) -> list[str]:
        """Return the lines of `differences` that nothing accepts: method and weights."""
        return self.differences(self.model_copy(update={"method": other.method, "weights": other.weights}))


class ParentRun(FrozenModel):
    """The complete run that another one was made from.

    Attributes:
        location: Its folder as an absolute path, or its url; where it stood then, for it may be moved.
        created_utc: When it was created: two runs may stand at one place, one after the other.
        manifest: Number of the snapshot of its receipts that was read.
        manifest_sha256: Of that snapshot's bytes.
    """

    location: str
    created_utc: str
    manifest: int = Field(ge=1)
    manifest_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class RunHeader(FrozenModel):
    """`_run.json`: written once, after the plan; no shard starts without it.

    Read back, its plan includes the extensions (`PlanExtension`): a reader sees one plan, whatever it grew from.

    Attributes:
        source: SOURCE, a local one as an absolute path; credentials are excluded by refusal.
        plan_parts: The plan's files in order of their shards; names relative to `_plan/`.
        num_images: Images planned, repeated keys counted once.
        num_repeated: Listings whose key had been listed already.
        num_shards: Shards planned.
        max_shard_bytes: Expected bytes of the largest shard's images, encoded; uris in tables count as 0.
        config: The configuration that the run was created with.
        config_sha256: `config_hash` of it.
        origin: What made the tables: `annotate` with models, `refilter` out of a parent's scores, or `import` of a
            human's annotation, or `ppt`: one of its data recipes.
        parent: Of a run that reuses another one's results; else None.
    """

    version: int = RUN_VERSION
    source: str
    created_utc: str
    plan_parts: tuple[PartRecord, ...]
    num_images: int = Field(ge=0)
    num_repeated: int = Field(ge=0)
    num_shards: int = Field(ge=0)
    max_shard_bytes: int = Field(default=0, ge=0)
    identity: Identity
    config: RunConfig
    config_sha256: str
    origin: Origin = "annotate"
    parent: ParentRun | None = None


class PlanExtension(FrozenModel):
    """`_plan/g0002.json`: images that SOURCE had gained since; created once, after its parts of the plan.

    Its shards follow those of the plan before it without a gap.

    Attributes:
        number: Generation of the plan, from 2.
        plan_parts: Its files in order; names relative to `_plan/`.
        num_images: Images that it plans.
        num_repeated: Listings of a new key that had been listed already.
        num_shards: Shards that it plans.
        max_shard_bytes: As that of the header.
    """

    version: int = RUN_VERSION
    number: int = Field(ge=2)
    created_utc: str
    plan_parts: tuple[PartRecord, ...]
    num_images: int = Field(ge=1)
    num_repeated: int = Field(ge=0)
    num_shards: int = Field(ge=1)
    max_shard_bytes: int = Field(default=0, ge=0)


class ShardCounts(FrozenModel):
    """What a shard held; images = annotated + empty + quarantined."""

    images: int = Field(ge=0)
    annotated: int = Field(ge=0)
    empty: int = Field(ge=0)
    quarantined: int = Field(ge=0)
    masks: int = Field(ge=0)
    expressions: int = Field(ge=0, description="Candidate rows; equal captions of a mask are one.")
    samples: int = Field(ge=0, description="Draws, before equal captions were merged.")
    kept: int = Field(ge=0)
    reasons: dict[str, int] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        total = self.annotated + self.empty + self.quarantined
        if total != self.images:
            raise ValueError(f"{self.images} images, but {total} are annotated, empty or quarantined")
        return self


class Receipt(FrozenModel):
    """The commit of a shard's generation: which parts count. Written last, created once.

    Attributes:
        parts: By table name, all of `tables.SCHEMAS`.
        seconds: Wall seconds by stage.
        attempts: How many times each pool started on the shard, over all starts of the run; what is above 1 was
            done again after a process, a node or a driver was lost.
        nodes: Ray node ids that worked on it.
        degraded: Settings that were lowered for this shard after the device ran out of memory
            (`--allow-degraded`), as `captions.cache_bytes`: value. Its bytes are outside promise 2.
        mixed: Under `--allow-mixed`, what differed from the run's identity where the shard was computed, a line a
            field. Its bytes are outside promise 2.
    """

    version: int = RECEIPT_VERSION
    shard: int = Field(ge=0)
    generation: int = Field(ge=0)
    parts: dict[str, PartRecord]
    counts: ShardCounts
    seconds: dict[str, float] = Field(default_factory=dict)
    attempts: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    nodes: tuple[str, ...] = ()
    degraded: dict[str, JsonValue] = Field(default_factory=dict)
    mixed: tuple[str, ...] = ()

    @property
    def num_repeats(self) -> int:
        """How many times a pool's work on the shard was done again."""
        return sum(count - 1 for count in self.attempts.values())

    @model_validator(mode="after")
    def _names_every_table(self) -> Self:
        if set(self.parts) != set(SCHEMAS):
            raise ValueError(f"a receipt names one part of each of {sorted(SCHEMAS)}, got {sorted(self.parts)}")
        return self


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
