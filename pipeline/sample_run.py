"""`estimate`: runs a uniform sample of SOURCE, and extrapolates to the whole with intervals."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Final

from pseudoris.pipeline.cluster import connected, node_resources
from pseudoris.pipeline.domain_sample import accepted_domain, sampled
from pseudoris.pipeline.executor import run_shards
from pseudoris.pipeline.extrapolation import Estimate, summarise
from pseudoris.pipeline.identity import identity_before_ray, identity_on_cluster
from pseudoris.pipeline.job import Job
from pseudoris.pipeline.resources import plan_actors
from pseudoris.pipeline.source_listing import list_on_cluster
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.run_records import Identity, Receipt
from pseudoris.schemas.shard import ShardFault
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.garbage import remove_run
from pseudoris.store.runs.set_aside import fault_error
from pseudoris.store.runs.shard_assignment import PlanTally, assign_shards, plan_run
from pseudoris.store.runs.stored_exclusions import ExcludedItems, nothing_is_left
from pseudoris.store.sources import SourceItem, open_source
from pseudoris.store.sources.exclusions import Exclusions

DEFAULT_SAMPLE: Final = 200
# Enough shards for resampling and for every actor of a small cluster; each shard still fills a few tiles of a batch.
NUM_SHARDS: Final = 16

# Called with the sampled images committed so far, and the size of the sample.
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Sample:
    """A uniform sample of a listing, in its order, and the tally of the whole listing."""

    items: list[SourceItem]
    tally: PlanTally


def draw_sample(items: Iterable[SourceItem], config: RunConfig, *, size: int, seed: int) -> Sample:
    """Return `size` images of a listing; all subsets are equally likely. One pass; memory grows only with the sample.

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
        # Algorithm R: image number n is kept with probability size / n.
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
    exclusions: Exclusions | None = None,
    on_progress: OnProgress = lambda done, total: None,
) -> Estimate:
    """Run a sample of SOURCE through the graph of a run into a temporary output, and extrapolate to the whole.

    Args:
        source: As for a run.
        config: As for a run; its seed draws the sample.
        size: Images to draw; all if SOURCE has fewer.
        num_gpus: GPUs that the run would have; by default those of the cluster.
        scratch: Folder or url for the temporary output, which is removed at the end; every node must reach it. By
            default a temporary folder of this machine, which works only if this is the only node.
        exclusions: As for a run: images that are left out by name, and quarantined by content.
        on_progress: Called after each commit.

    Raises:
        ConfigError: SOURCE, the configuration, the placement or `scratch` cannot be used.
        TransientError: Storage or the cluster failed.
    """
    _check_gpus(num_gpus, config)
    exclusions = exclusions or Exclusions()
    listing = open_source(source, config.source, limits=config.placement.storage)
    # Checked before Ray, which takes seconds to start: most mistakes are in a path.
    listing.check_not_empty()
    with ExitStack() as stack:
        location = stack.enter_context(_temporary_output(scratch, config))
        with sampled(config, listing, exclusions) as domain_found:
            here = identity_before_ray(config, None, listing.name, location=location)
            domain = accepted_domain(domain_found(), config)
        stack.enter_context(connected(config.placement.address, config.placement.start_timeout_s))
        nodes = node_resources()
        _check_reach(scratch, len(nodes))
        actors = plan_actors(nodes, config)
        # Before the listing, which may take an hour: a missing weight file is reported first.
        identity = here or identity_on_cluster(config)
        excluded = ExcludedItems(exclusions)
        items = excluded.kept(list_on_cluster(listing, config.placement.read))
        sample = draw_sample(items, config, size=size, seed=config.compute.seed)
        if excluded.total and not sample.items:
            raise nothing_is_left(exclusions, excluded)
        job = _planned(sample, location, listing.name, config, identity=identity, exclusions=exclusions)
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
        domain=domain,
        num_excluded=excluded.total,
    )


def _check_gpus(num_gpus: float | None, config: RunConfig) -> None:
    device = config.compute.device
    if num_gpus is not None and device != "cuda":
        raise ConfigError(
            f"--gpus says how many GPUs the run would have, but compute.device is {device}: leave --gpus out"
        )


def _planned(
    sample: Sample,
    location: RunLocation,
    source: str,
    config: RunConfig,
    *,
    identity: Identity,
    exclusions: Exclusions,
) -> Job:
    # Smaller shards than the run's: a single shard would use one actor and give no interval.
    shards = config.shards.model_copy(update={"max_images": max(1, -(-len(sample.items) // NUM_SHARDS))})
    small = config.model_copy(update={"shards": shards})
    header = plan_run(location, sample.items, source=source, identity=identity, config=small, exclusions=exclusions)
    return Job(source, location, header, small)


def _run(job: Job, actors: Mapping[str, int], on_progress: OnProgress) -> tuple[float, list[Receipt]]:
    """Return the seconds before the work on the first shard, and the receipts."""
    receipts: list[Receipt] = []
    began_s = time.perf_counter()
    load_s = 0.0
    with closing(run_shards(job, range(job.header.num_shards), actors)) as landing:
        for outcome in landing:
            if isinstance(outcome, ShardFault):
                raise fault_error([outcome], outcome.message)
            if not receipts:
                load_s = max(0.0, time.perf_counter() - began_s - sum(outcome.seconds.values()))
            receipts.append(outcome)
            on_progress(sum(each.counts.images for each in receipts), job.header.num_images)
    return load_s, receipts


@contextmanager
def _temporary_output(scratch: str | None, config: RunConfig) -> Iterator[RunLocation]:
    """Yield an empty location that is removed after the block, whatever happens in it."""
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
            f"the cluster has {num_nodes} nodes, and the others cannot read this node's temporary folder: use "
            "--scratch to name a folder or bucket that all nodes can reach. Other files in it are not changed"
        )
