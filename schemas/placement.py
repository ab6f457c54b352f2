"""Where a run's work happens: pools of actors, storage, limits. These settings do not change the tables' bytes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pseudoris.schemas.frozen import FrozenModel


class TaskPoolConfig(FrozenModel):
    """A pool of identical tasks or actors, and what each of them needs."""

    # CPUs of the cluster that each one takes; a share lets several run on one.
    num_cpus: float = Field(default=1.0, ge=0)
    # None: as many as the cluster's resources allow when the run starts.
    max_actors: int | None = Field(default=None, ge=1)
    # Custom Ray resources, such as spot labels.
    resources: dict[str, float] = Field(default_factory=dict)


class PoolConfig(TaskPoolConfig):
    """A pool of actors that hold models."""

    # GPUs that each one takes; a share lets several run on one.
    num_gpus: float = Field(default=0.0, ge=0)


class StorageConfig(FrozenModel):
    """How an S3 store is accessed, for SOURCE and OUT alike. Its address is `source.endpoint_url`."""

    # The longest silence during a request. If a busy store answers more slowly, requests are sent twice.
    read_timeout_s: float = Field(default=60.0, gt=0)
    # An operation is retried, with growing pauses, up to this long; then the run stops and can be resumed. The limit
    # covers the whole operation: raise it if one part takes minutes to transfer.
    patience_s: float = Field(default=300.0, gt=0)

    @property
    def connect_timeout_s(self) -> float:
        """After how long a machine that does not answer counts as gone: in time for another attempt."""
        return min(10.0, self.patience_s / 2)

    def hasty(self) -> StorageConfig:
        """Return limits under which a store that is down is noticed within ten seconds."""
        return StorageConfig(read_timeout_s=min(self.read_timeout_s, 6.0), patience_s=min(self.patience_s, 6.0))


class PlacementConfig(FrozenModel):
    """Where the stages run; may change between two sessions of one run."""

    # fused: one actor holds all three models. staged: each stage has its own pool.
    mode: Literal["fused", "staged"] = "fused"
    # auto: the cluster of RAY_ADDRESS or of this machine, else a new local one. local: always a new local one.
    address: str = "auto"
    # The longest start of each of Ray's two servers on this machine. A busy machine may need more than 30 s, which are
    # Ray's own limit and cannot be lowered. If they never start, the error comes this late.
    start_timeout_s: int = Field(default=30, ge=30, le=3600)
    # At most `max_actors` shards are read, and as many committed, at a time; by default one for each actor that the run
    # starts with. This serves up to eight times that many actors: set it if the cluster may grow beyond.
    read: TaskPoolConfig = TaskPoolConfig(num_cpus=0.25)
    commit: TaskPoolConfig = TaskPoolConfig(num_cpus=0.25)
    fused: PoolConfig = PoolConfig()
    propose: PoolConfig = PoolConfig()
    caption: PoolConfig = PoolConfig()
    filter: PoolConfig = PoolConfig()
    # Shards assigned to an actor, including the one it works on. More than two only fill the object store.
    max_tasks_in_flight_per_actor: int = Field(default=2, ge=1)
    # A shard is set aside after this many deaths of a process on it, on nodes that live: no single image causes them.
    max_deaths_per_shard: int = Field(default=6, ge=3)
    # If a shard runs out of memory twice with the same tiles, halve the tiles for that shard instead of stopping the
    # run. Its tables may then differ in the last bits from a run with more memory; its receipt and `verify` report
    # this.
    allow_degraded: bool = False
    storage: StorageConfig = StorageConfig()
    # Continue on another kind of device, or with other package versions, than the run's identity names. The tables of
    # those shards may differ in the last bits; their receipts and `verify` report this. Method and weights must still
    # be equal.
    allow_mixed: bool = False
    # Go on although most of a sample of SOURCE is unlike what the models know (`domain`). The run then says so wherever
    # it shows figures.
    accept_domain: bool = False
