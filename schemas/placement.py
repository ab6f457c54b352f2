"""Where the work of a run happens: pools of actors, storage, limits; none of it decides a byte of the tables."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from schemas.frozen import FrozenModel


class PoolConfig(FrozenModel):
    """A pool of identical actors, or of tasks, and what each of them needs."""

    num_cpus: float = Field(default=1.0, ge=0)
    num_gpus: float = Field(default=0.0, ge=0)
    min_actors: int = Field(default=1, ge=1)
    # None: as many as the cluster's resources allow when the run starts.
    max_actors: int | None = Field(default=None, ge=1)
    resources: dict[str, float] = Field(default_factory=dict, description="Custom Ray resources, such as spot labels.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_actors is not None and self.max_actors < self.min_actors:
            raise ValueError(f"max_actors {self.max_actors} is below min_actors {self.min_actors}")
        return self


class StorageConfig(FrozenModel):
    """How an S3 store is asked, for SOURCE and OUT alike; where it answers is `source.endpoint_url`."""

    # A machine that is gone is noticed after this long.
    connect_timeout_s: float = Field(default=10.0, gt=0)
    # Silence in the midst of a request. Below the slowest answer of a busy store, requests are made twice.
    read_timeout_s: float = Field(default=60.0, gt=0)
    # An operation is tried again, with growing pauses, for this long; then the start ends, resumable. It bounds the
    # operation as a whole: raise it where one part takes minutes to travel.
    patience_s: float = Field(default=300.0, gt=0)
    # Objects above travel in parts of this size, each of which is tried again alone. S3 takes no part below 5 MiB.
    multipart_bytes: int = Field(default=64 * 2**20, ge=5 * 2**20)
    # Of one process. More only helps where a single connection is slow.
    max_connections: int = Field(default=32, ge=1)


class PlacementConfig(FrozenModel):
    """Where the stages run; may change between two starts of one run."""

    # fused: one actor holds all three models. staged: a pool a stage.
    mode: Literal["fused", "staged"] = "fused"
    # auto: the cluster of RAY_ADDRESS or of this machine, else a new local one; local: always a new one.
    address: str = "auto"
    # Shards read, and committed, at a time: `max_actors` of them, else one an actor that the run starts with. Eight
    # times that many actors can be served: a cluster that grows beyond it needs the number set.
    read: PoolConfig = PoolConfig(num_cpus=0.25)
    commit: PoolConfig = PoolConfig(num_cpus=0.25)
    fused: PoolConfig = PoolConfig()
    propose: PoolConfig = PoolConfig()
    caption: PoolConfig = PoolConfig()
    filter: PoolConfig = PoolConfig()
    # Shards handed to an actor, the one it works on included; more than two only fill the object store.
    max_tasks_in_flight_per_actor: int = Field(default=2, ge=1)
    # Deaths of its process, on nodes that live, after which a shard ends the run: what kills it is no single image.
    max_deaths_per_shard: int = Field(default=6, ge=3)
    # Out of memory twice with the same tiles: halve them for that shard instead of ending the run. Its bytes may then
    # differ in the last bits from those of a run that had the memory; its receipt and `verify` say so.
    allow_degraded: bool = False
    storage: StorageConfig = StorageConfig()
    # Another kind of device or other package versions than the run's: compute all the same. The tables of those shards
    # may then differ in the last bits; their receipts and `verify` say so. Method and weights must be equal always.
    allow_mixed: bool = False
