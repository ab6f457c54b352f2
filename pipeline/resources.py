"""Computes how many actors, readers and committers a run gets from the resources of the nodes.

Called by `run_plan`, `executor` and benchmarks. A plan that cannot run is refused here: Ray would
wait forever for resources that do not exist. On two CPUs, two actors of one CPU each leave nothing for the read task.
Pure arithmetic: this module does not import Ray.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import ceil
from typing import Final

from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import PlacementConfig, PoolConfig, RunConfig, TaskPoolConfig
from pseudoris.schemas.run_records import RunHeader

# Resources are counted in units of 1/10,000, as in Ray, because sums of floats are inexact (3 x 0.1 > 0.3).
UNITS: Final = 10_000
# For each group of this many actors, the plan keeps CPUs free for one reader and one committer.
ACTORS_PER_READER: Final = 8
# If a cluster may grow, readers are planned for this many times the actors that fit at the start.
_GROWTH: Final = 8
_MIN_READERS: Final = 2
# The most images per second that an actor takes, by kind of device: an H200's limit for `base`; `tiny` on a core. Then
# a reader's seconds for an image: three times what a quiet core was measured to need for JPEGs of 0.1 to 4 MB.
_IMAGES_PER_S: Final = {"cuda": 13, "cpu": 2, "none": 100}
_READ_S, _READ_S_PER_BYTE = 0.004, 6e-8

# Ray Data uses this share of the object store by default. Source: ray.data.DataContext, Ray 2.60.
RAY_DATA_SHARE: Final = 0.5

_Amounts = dict[str, int]


def plan_actors(nodes: Sequence[Mapping[str, float]], config: RunConfig) -> dict[str, int]:
    """Return the number of actors of each model pool, by pool name in stage order.

    First every pool gets one actor, next to one read and one commit task; if they never fit, a ConfigError is raised.
    Then the pools grow in turn, the smallest first, up to `max_actors` or the resources of the nodes, with another read
    and commit task for each `ACTORS_PER_READER` actors. A node is what Ray says of it: `{"CPU": 8.0, "GPU": 1.0}`.
    """
    pools = config.model_pools()
    free = [_units(node) for node in nodes]
    minimum: list[TaskPoolConfig] = [*pools.values(), config.placement.read, config.placement.commit]
    # Large tasks are placed first, because a small one might take the only gap that fits a large one.
    if not all(_place(free, _demand(pool)) for pool in sorted(minimum, key=_weight, reverse=True)):
        raise ConfigError(_refusal(nodes, pools, config))
    actors = dict.fromkeys(pools, 1)
    growing = set(pools)
    while growing:
        name = min(growing, key=lambda pool: (actors[pool], -_weight(pools[pool]), list(pools).index(pool)))
        most = pools[name].max_actors
        # A pool without a maximum does not grow if its actors need no resources, because the loop would not end.
        may_grow = actors[name] < most if most is not None else bool(_demand(pools[name]))
        needs_reader = sum(actors.values()) % ACTORS_PER_READER == 0
        asked = [*((config.placement.read, config.placement.commit) if needs_reader else ()), pools[name]]
        trial = [dict(node) for node in free] if len(asked) > 1 else free
        if may_grow and all(_place(trial, _demand(pool)) for pool in asked):
            free = trial
            actors[name] += 1
        else:
            growing.discard(name)
    return actors


def busy_actors(actors: Mapping[str, int], num_shards: int) -> dict[str, int]:
    """Return at most one actor per shard, at least one per pool: an actor without a shard would load models in vain."""
    return {name: min(number, max(num_shards, 1)) for name, number in actors.items()}


def with_readers(
    nodes: Sequence[Mapping[str, float]],
    config: RunConfig,
    actors: Mapping[str, int],
    header: RunHeader,
    *,
    may_grow: bool = False,
) -> RunConfig:
    """Return `config` with a number of readers, if it names none: as many as carry what the actors take at most.

    Uses the plan's bytes per image; where it knows none (uris in tables), one per actor of the first pool. More would
    only fill the object store, so there are never more than fit into it.
    """
    asked, shard_bytes = next(iter(actors.values())), _shard_bytes(config, header.max_shard_bytes)
    if shard_bytes:
        image_s = _READ_S + _READ_S_PER_BYTE * shard_bytes * header.num_shards / max(1, header.num_images)
        carried = asked * _IMAGES_PER_S[config.compute.device] * image_s * (_GROWTH if may_grow else 1)
        waiting = config.placement.max_tasks_in_flight_per_actor * sum(actors.values())
        asked = min(ceil(carried), sum(_stores(nodes)) // shard_bytes - waiting)
    placement = config.placement
    most = placement.read.max_actors or max(_MIN_READERS, asked)
    read = placement.read.model_copy(update={"max_actors": most})
    return config.model_copy(update={"placement": placement.model_copy(update={"read": read})})


def num_readers(placement: PlacementConfig) -> int:
    """Return how many shards are read at a time."""
    return placement.read.max_actors or _MIN_READERS


def num_committers(placement: PlacementConfig) -> int:
    """Return how many shards are committed at a time: `placement.commit.max_actors`, else as many as are read."""
    return placement.commit.max_actors or num_readers(placement)


def check_object_store(
    nodes: Sequence[Mapping[str, float]], config: RunConfig, actors: Mapping[str, int], max_shard_bytes: int
) -> None:
    """Accept a plan whose shards in flight fit into the object store, so that nothing spills to disk; else ConfigError.

    Shards in flight are those being read and those passed to actors. Ray Data gives a dataset half of the store and
    makes readers wait if that is full. If even the shards in flight do not fit, waiting does not help. The plan's
    largest shard has `max_shard_bytes` encoded bytes.
    """
    stores, max_shard_bytes = _stores(nodes), _shard_bytes(config, max_shard_bytes)
    per_actor = config.placement.max_tasks_in_flight_per_actor
    being_read = num_readers(config.placement)
    in_flight = being_read + per_actor * sum(actors.values())
    asked, given = in_flight * max_shard_bytes, sum(stores)
    # An actor and its blocks are on one node, so the largest node needs room for two whole blocks.
    if asked <= given and 2 * max_shard_bytes <= max(stores, default=0):
        return
    raise ConfigError(
        f"the shards in flight do not fit into the object store: {in_flight} of up to {max_shard_bytes / 2**20:,.0f} "
        f"MiB ({being_read} being read, {per_actor} for each of {sum(actors.values())} actors). Ray Data can use half "
        f"of the store, {given / 2**20:,.0f} MiB. In this run, lower placement.max_tasks_in_flight_per_actor or the "
        "number of actors. In a new run, lower shards.max_bytes or shards.max_images. Or give Ray a larger store "
        "(ray start --object-store-memory)"
    )


def _stores(nodes: Sequence[Mapping[str, float]]) -> list[int]:
    """Return what Ray Data may use of each object store, in bytes."""
    return [int(node["object_store_memory"] * RAY_DATA_SHARE) for node in nodes if node.get("object_store_memory")]


def _shard_bytes(config: RunConfig, planned: int) -> int:
    # An image above `images.max_bytes` is alone in its shard and never read, so it does not count.
    return min(planned, max(config.shards.max_bytes, config.images.max_bytes))


def _place(free: Sequence[_Amounts], demand: Mapping[str, int]) -> bool:
    """Take `demand` from the first node that has enough; a demand is never split over nodes."""
    for node in free:
        if all(node.get(name, 0) >= amount for name, amount in demand.items()):
            for name, amount in demand.items():
                node[name] -= amount
            return True
    return False


def _demand(pool: TaskPoolConfig) -> _Amounts:
    return _units({"CPU": pool.num_cpus, "GPU": _num_gpus(pool), **pool.resources})


def _weight(pool: TaskPoolConfig) -> float:
    # GPUs and custom resources are scarcer than CPUs, so they weigh more.
    return 1_000 * _num_gpus(pool) + 100 * sum(pool.resources.values()) + pool.num_cpus


def _num_gpus(pool: TaskPoolConfig) -> float:
    return pool.num_gpus if isinstance(pool, PoolConfig) else 0.0


def _units(amounts: Mapping[str, float]) -> _Amounts:
    return {name: round(amount * UNITS) for name, amount in amounts.items() if amount > 0}


def _refusal(nodes: Sequence[Mapping[str, float]], pools: Mapping[str, PoolConfig], config: RunConfig) -> str:
    tasks = {"read": config.placement.read, "commit": config.placement.commit}
    asked = [f"  placement.{name}: 1 x {_shown(_demand(pool))}" for name, pool in {**pools, **tasks}.items()]
    named = {resource for pool in (*pools.values(), *tasks.values()) for resource in _demand(pool)}
    shapes = Counter(_shown({k: v for k, v in _units(node).items() if k in named}) for node in nodes)
    existing = [f"  {count} node(s) of {shape}" for shape, count in shapes.items()] or ["  no node"]
    remedy = (
        "An actor must fit on one node, and one read and one commit task must fit next to the actors. Lower num_cpus "
        f"or num_gpus (--set placement.{next(iter(pools))}.num_cpus=0.5), or add nodes."
    )
    if any(pool.num_gpus for pool in pools.values()) and not any(node.get("GPU") for node in nodes):
        remedy = (
            "Ray sees no GPU: add a node with a GPU, or repair the driver of an existing one (check with nvidia-smi). "
            "To compute on CPUs, slowly: --on-cpus"
        )
    start = "the placement can never be scheduled. It asks for at least:"
    return "\n".join([start, *asked, "and the cluster has:", *existing, remedy])


def _shown(amounts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {amount / UNITS:g}" for name, amount in sorted(amounts.items())) or "nothing"
