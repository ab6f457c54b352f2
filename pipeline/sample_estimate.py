"""Estimates the cost of a run: annotates a uniform sample of SOURCE, and extrapolates with bootstrap intervals.

Called by `cli/annotate` for `pseudoris estimate`. The sample goes through the graph of a real run, into a temporary OUT
that is always removed. The same seed and SOURCE give the same sample.
"""

from __future__ import annotations

import itertools
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from typing import Final

from pseudoris.files.location import RunLocation
from pseudoris.pipeline.cluster import node_resources
from pseudoris.pipeline.executor import run_shards
from pseudoris.pipeline.run_contract import RunOptions, tile_sentence
from pseudoris.pipeline.run_plan import opened
from pseudoris.pipeline.shard_tasks import Job
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.estimate import Estimate, ImageBootstrap
from pseudoris.schemas.run_records import Receipt
from pseudoris.schemas.shard import ShardFault
from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.exclusion_rules import Exclusions
from pseudoris.store.runs.garbage import remove_run
from pseudoris.store.runs.pending_work import fault_error
from pseudoris.store.runs.plan import PlanTally, assign_shards
from pseudoris.store.runs.planned_run import plan_run
from pseudoris.store.runs.receipts import Totals
from pseudoris.store.runs.stored_exclusions import ExcludedItems
from pseudoris.store.sessions.thread_executor import OnProgress
from pseudoris.store.sources import SourceItem
from pseudoris.store.tables.open_run import CommittedShard
from pseudoris.store.tables.shard_tables import table_bytes
from pseudoris.workers.stages import STAGE_CAPTION, STAGE_FILTER, STAGE_PROPOSE

# The sample has this many shards. They are enough to resample and to fill a small cluster, and each fills batches.
NUM_SHARDS: Final = 16
_MODEL_STAGES: Final = (STAGE_PROPOSE, STAGE_CAPTION, STAGE_FILTER)


def draw_sample(
    items: Iterable[SourceItem], config: RunConfig, *, size: int, seed: int
) -> tuple[list[SourceItem], PlanTally]:
    """Return a uniform sample of a listing, `size` images in its order, and the tally of the whole listing.

    All subsets are equally likely. A key that is listed several times counts once. One pass; memory grows only with the
    sample.
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
        # Reservoir sampling (algorithm R): image number n is kept with probability size / n.
        if number < size:
            chosen.append((number, last[0]))
        elif (place := draw.randrange(number + 1)) < size:
            chosen[place] = (number, last[0])
    return [item for _, item in sorted(chosen, key=lambda pair: pair[0])], tally


def estimate(
    source: str,
    config: RunConfig,
    *,
    size: int,
    num_gpus: float | None = None,
    scratch: str | None = None,
    exclusions: Exclusions = (),
    on_progress: OnProgress = lambda done, total: None,
) -> RunEstimate:
    """Run a sample of SOURCE through the graph of a run into a temporary output, and extrapolate to the whole.

    `num_gpus` are those that the run would have, by default the cluster's. `scratch` is a folder or url for the
    temporary output, which every node must reach; by default a folder of this machine.

    Raises:
        ConfigError: SOURCE, the configuration, the placement or `scratch` cannot be used.
    """
    if num_gpus is not None and (device := config.compute.device) != "cuda":
        text = f"--gpus says how many GPUs the run would have, but compute.device is {device}: leave --gpus out"
        raise ConfigError(text)
    if config.placement.masks_from is not None:
        raise ConfigError("an estimate proposes its own masks: leave placement.masks_from out")
    with ExitStack() as stack:
        out = stack.enter_context(_temporary_output(scratch, config))
        plan = opened(source, out, config, RunOptions(exclusions=exclusions))
        plan = stack.enter_context(plan.placed(cpu_kind=stack.enter_context(plan.measuring())))
        # What the card decides is in the plan alone.
        config = plan.config
        if scratch is None and (num_nodes := len(node_resources())) > 1:
            raise ConfigError(
                f"the cluster has {num_nodes} nodes, and the others cannot read this node's temporary folder: use "
                "--scratch to name a folder or bucket that all nodes can reach. Other files in it are not changed"
            )
        excluded = ExcludedItems(exclusions)
        sample, tally = draw_sample(excluded.kept(plan.items()), config, size=size, seed=config.compute.seed)
        excluded.check_left(len(sample))
        # The sample is split into shards, because a single shard would use one actor and give no interval.
        most = min(config.shards.max_images, max(1, -(-len(sample) // NUM_SHARDS)))
        shards = config.shards.model_copy(update={"max_images": most})
        # Actors are not added meanwhile, because the figures are those of the nodes that there are.
        small = replace(plan, config=config.model_copy(update={"shards": shards}), may_grow=False)
        planned = plan_run(plan.location, small.request(), lambda: sample)
        load_s, receipts = _run(small.job(planned, {}), plan.actors, on_progress)
        parts = (CommittedShard(plan.location, each).shown(("height", "width")) for each in receipts)
        too_large = tile_sentence(((row["height"], row["width"]) for each in parts for row in each.to_pylist()), config)
    figures = summarise(tally, receipts, config, actors=plan.actors, num_gpus=num_gpus)
    figures = replace(figures, source=plan.source.name, load_s=load_s, num_excluded=excluded.total)
    return replace(figures, device_kind=planned.header.identity.device_kind, too_large=too_large)


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
def _temporary_output(scratch: str | None, config: RunConfig) -> Iterator[str]:
    """Yield an empty output that is removed after the block, whatever happens in it."""
    with tempfile.TemporaryDirectory(prefix="pseudoris-estimate-") as folder:
        if scratch is None:
            yield folder
            return
        inside = f"{scratch.rstrip('/')}/{folder.rpartition('/')[2]}"
        location = RunLocation.open(inside, config.source.endpoint_url, config.placement.storage)
        try:
            yield inside
        finally:
            remove_run(location)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEstimate:
    """What annotating the whole of SOURCE would cost.

    The intervals come from resampling the sample's shards. They cover the differences between images. They do not cover
    the differences between machines, between times of day, or between the sample's small shards and the run's shards.

    Attributes:
        source: SOURCE, a local one as an absolute path.
        device_kind: The device that computed.
        load_s: Seconds from the start of the graph to the first commit, minus the seconds of that shard's stages:
            processes, weights, compilation. Paid once per actor; not included in the other figures.
        num_excluded: Listed images that exclusions by name leave out; `num_images` does not count them.
        num_images: Images of SOURCE; repeated keys count once.
        num_shards: Shards that a run would plan.
        num_sampled: Images of the sample.
        num_sample_shards: Shards of the sample.
        num_warming_shards: The first committed shards of the sample, one per actor. The speed leaves them out if enough
            others remain.
        unit: `GPU`, or `CPU actor` if the models run without a GPU.
        num_units: The number of GPUs or CPU actors that `hours` assumes.
        images_per_s: Speed of one unit, once its models are loaded.
        hours: For all images, on `num_units`, without `load_s`. On the present cluster, the time of the slowest pool;
            on another number of GPUs, with pools in proportion to their work.
        unit_hours: GPU hours (or CPU actor hours) for all images.
        output_bytes: Size of the four tables of all images.
        quarantined: Share of images that are quarantined, in [0, 1].
        too_large: What to do with images that are larger or longer than SAM sees; "" if few are.
        empty_images: What left images of the sample without a mask, as `RunTotals.empty_sentence`.
        stage_seconds: Seconds per image, by stage.
    """

    source: str = ""
    device_kind: str = ""
    load_s: float = 0.0
    num_excluded: int = 0
    num_images: int
    num_shards: int
    num_sampled: int
    num_sample_shards: int
    num_warming_shards: int
    unit: str
    num_units: float
    images_per_s: Estimate
    hours: Estimate
    unit_hours: Estimate
    output_bytes: Estimate
    quarantined: Estimate
    too_large: str = ""
    empty_images: str = ""
    stage_seconds: Mapping[str, float]


def summarise(
    whole: PlanTally, receipts: list[Receipt], config: RunConfig, *, actors: Mapping[str, int], num_gpus: float | None
) -> RunEstimate:
    """Return the figures for the `whole` listing from the receipts of a sample, and nothing of how it was run."""
    pools, is_cuda = config.model_pools(), config.compute.device == "cuda"
    # The first shard of each actor is slow, so it is left out of `warm` if enough other shards remain.
    first = max(actors.values())
    warm = receipts[first:] if len(receipts) >= 4 * first else receipts
    # Footers have a fixed size per shard, so small shards have more of them. They are subtracted here and added below.
    fixed_bytes = sum(len(table_bytes(schema.empty_table())) for schema in SCHEMAS.values())
    wall_seconds = _wall_seconds(warm, config, actors)

    def of_tables(receipt: Receipt) -> dict[str, tuple[float, float]]:
        size_bytes = sum(part.size_bytes for part in receipt.parts.values()) - fixed_bytes
        images = receipt.counts.images
        return {"bytes": (size_bytes, images), "quarantined": (receipt.counts.quarantined, images)}

    def of_stages(receipt: Receipt) -> dict[str, tuple[float, float]]:
        # A shard whose stages took no time would make the speed infinite.
        images, unit_s = receipt.counts.images, max(unit_seconds(receipt.seconds, config), 1e-9)
        return {"speed": (images, unit_s), "unit_s": (unit_s, images), "wall_s": (wall_seconds(receipt), images)}

    tables = ImageBootstrap(map(of_tables, receipts), seed=config.compute.seed)
    speeds = ImageBootstrap(map(of_stages, warm), seed=config.compute.seed)
    unit_hours, hours = (
        speeds.ratio(name).each(lambda each: each * whole.num_images / 3_600) for name in ("unit_s", "wall_s")
    )
    if num_gpus is not None:
        hours = unit_hours.each(lambda each: each / num_gpus)
    stages = dict.fromkeys(itertools.chain.from_iterable(receipt.seconds for receipt in receipts))
    num_sampled = sum(receipt.counts.images for receipt in receipts)
    return RunEstimate(
        num_images=whole.num_images,
        num_shards=whole.num_shards,
        num_sampled=num_sampled,
        num_sample_shards=len(receipts),
        num_warming_shards=len(receipts) - len(warm),
        unit="GPU" if is_cuda else "CPU actor",
        num_units=num_gpus or sum(n * (pools[name].num_gpus if is_cuda else 1.0) for name, n in actors.items()),
        images_per_s=speeds.ratio("speed"),
        hours=hours,
        unit_hours=unit_hours,
        output_bytes=tables.ratio("bytes").each(lambda each: each * whole.num_images + whole.num_shards * fixed_bytes),
        quarantined=tables.ratio("quarantined"),
        empty_images=Totals(receipts).sum().empty_sentence,
        stage_seconds={name: sum(each.seconds.get(name, 0.0) for each in receipts) / num_sampled for name in stages},
    )


def unit_seconds(seconds: Mapping[str, float], config: RunConfig) -> float:
    """Return the GPU seconds (or CPU actor seconds) of a shard: wall seconds times the GPUs that the pool holds."""
    pools = config.model_pools()
    total = 0.0
    for stage in _MODEL_STAGES:
        pool = pools.get(stage) or pools["fused"]
        total += seconds.get(stage, 0.0) * (pool.num_gpus if config.compute.device == "cuda" else 1.0)
    return total


def _wall_seconds(receipts: list[Receipt], config: RunConfig, actors: Mapping[str, int]) -> Callable[[Receipt], float]:
    """Return a function of a receipt: the shard's seconds in the slowest pool, divided by the actors of that pool."""
    stages = {name: (name,) if name in _MODEL_STAGES else _MODEL_STAGES for name in config.model_pools()}

    def seconds_in(pool: str, receipt: Receipt) -> float:
        return sum(receipt.seconds.get(stage, 0.0) for stage in stages[pool]) / actors[pool]

    slowest = max(stages, key=lambda pool: sum(seconds_in(pool, receipt) for receipt in receipts))
    return lambda receipt: seconds_in(slowest, receipt)
