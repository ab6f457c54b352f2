"""`estimate`: a uniform sample of SOURCE run for real, and what it says of the whole, with intervals."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Final

from ray.exceptions import RayError

from pipeline.cluster import connected, identity_on_cluster, node_resources
from pipeline.extrapolation import Estimate, summarise
from pipeline.failures import let_go, original_error
from pipeline.graph import run_shards
from pipeline.indexing import list_on_cluster
from pipeline.job import Job
from pipeline.resources import plan_actors
from pipeline.starting import check_packages_here
from schemas.config import RunConfig
from schemas.errors import ConfigError
from schemas.run import Receipt
from store.location import RunLocation
from store.planning import PlanTally, assign_shards, plan_run
from store.removal import remove_run
from store.sources import SourceItem, open_source

DEFAULT_SAMPLE: Final = 200
# Enough shards to resample, and for every actor of a small cluster; each still fills a few tiles of a batch.
NUM_SHARDS: Final = 16

# Images sampled, of how many, committed so far.
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Sample:
    """A uniform sample of a listing, in its order, and what the listing held in all."""

    items: list[SourceItem]
    tally: PlanTally


def draw_sample(items: Iterable[SourceItem], config: RunConfig, *, size: int, seed: int) -> Sample:
    """Return `size` images of a listing, each subset as likely as any other; one pass, memory of the sample's size.

    A key that is listed several times counts once.
    """
    last: list[SourceItem] = []

    def passing() -> Iterator[SourceItem]:
        for item in items:
            last[:] = [item]
            yield item

    tally = PlanTally()
    draw = random.Random(seed)
    chosen: list[tuple[int, SourceItem]] = []
    for number, _ in enumerate(assign_shards(passing(), config.shards, tally=tally)):
        # Algorithm R: the image number n stays with probability size / n.
        if number < size:
            chosen.append((number, last[0]))
        elif (place := draw.randrange(number + 1)) < size:
            chosen[place] = (number, last[0])
    return Sample([item for _, item in sorted(chosen, key=lambda pair: pair[0])], tally)


def estimate(
    source: str,
    config: RunConfig,
    *,
    size: int = DEFAULT_SAMPLE,
    num_gpus: float | None = None,
    scratch: str | None = None,
    on_progress: OnProgress = lambda done, total: None,
) -> Estimate:
    """Run a sample of SOURCE through the graph of a run into a temporary output, and return what it says of the whole.

    Args:
        source: As for a run.
        config: As for a run; its seed draws the sample.
        size: Images to draw; all where SOURCE has less.
        num_gpus: GPUs that the run would have; what the cluster has by default.
        scratch: Folder or url that every node reaches, for the temporary output, which is removed in the end; by
            default a temporary folder of this machine, which serves where it is the only node.
        on_progress: Told of each commit.

    Raises:
        ConfigError: SOURCE, the configuration, the placement or `scratch` does not serve.
        TransientError: Storage or the cluster failed.
    """
    if num_gpus is not None and config.compute.device != "cuda":
        raise ConfigError("--gpus says how many GPUs the run would have, but compute.device is cpu: leave it out")
    check_packages_here(config)
    listing = open_source(source, config.source, limits=config.placement.storage)
    # Before Ray, which takes seconds to start: most mistakes are in a path.
    listing.check_not_empty()
    with _temporary_output(scratch, config) as location, connected(config.placement.address):
        nodes = node_resources()
        _check_reach(scratch, len(nodes))
        actors = plan_actors(nodes, config)
        # Before the listing, which may take an hour: a missing weight is known first.
        identity = identity_on_cluster(config)
        items = list_on_cluster(listing, config.placement.read)
        sample = draw_sample(items, config, size=size, seed=config.compute.seed)
        # Smaller shards than the run's: one shard would keep one actor busy, and give no interval.
        shards = config.shards.model_copy(update={"max_images": max(1, -(-len(sample.items) // NUM_SHARDS))})
        small = config.model_copy(update={"shards": shards})
        header = plan_run(location, sample.items, source=listing.name, identity=identity, config=small)
        job = Job(listing.name, location, header, small)
        load_s, receipts = _run(job, actors, on_progress)
    return summarise(
        sample.tally,
        receipts,
        config,
        source=listing.name,
        device_kind=identity.device_kind,
        actors=actors,
        num_gpus=num_gpus,
        load_s=load_s,
    )


def _run(job: Job, actors: Mapping[str, int], on_progress: OnProgress) -> tuple[float, list[Receipt]]:
    """Return the seconds before the first shard's own work, and the receipts."""
    receipts: list[Receipt] = []
    started = time.perf_counter()
    load_s = 0.0
    ours: BaseException | None = None
    try:
        with closing(run_shards(job, range(job.header.num_shards), actors)) as landing:
            for receipt in landing:
                if not receipts:
                    load_s = max(0.0, time.perf_counter() - started - sum(receipt.seconds.values()))
                receipts.append(receipt)
                on_progress(sum(each.counts.images for each in receipts), job.header.num_images)
    except RayError as error:
        ours = original_error(error)
    if ours is not None:
        raise let_go(ours)
    return load_s, receipts


@contextmanager
def _temporary_output(scratch: str | None, config: RunConfig) -> Iterator[RunLocation]:
    """Give an empty location that is gone after the block, whatever happens in it."""
    with tempfile.TemporaryDirectory(prefix="pseudoris-estimate-") as folder:
        name = folder.rpartition("/")[2]
        if scratch is None:
            yield RunLocation.open(folder)
            return
        location = RunLocation.open(
            f"{scratch.rstrip('/')}/{name}", config.source.endpoint_url, config.placement.storage
        )
        try:
            yield location
        finally:
            remove_run(location)


def _check_reach(scratch: str | None, num_nodes: int) -> None:
    if scratch is None and num_nodes > 1:
        raise ConfigError(
            f"the cluster has {num_nodes} nodes, and a temporary folder of this one is not seen by the others: name a "
            "folder or bucket that all reach with --scratch (it is left as it was)"
        )
