"""Annotates SOURCE into OUT: plans a run or resumes it, computes its shards on Ray, and returns a summary.

Called by `cli/annotate.py` and `pseudoris.annotate`. What can be refused without Ray is refused before Ray starts, and
the lock is held from before the plan until Ray has ended.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from pseudoris.files.location import RunLocation
from pseudoris.pipeline.cluster import connected, lone_node, node_resources
from pseudoris.pipeline.fan_out import list_on_cluster
from pseudoris.pipeline.interrupts import interruptible
from pseudoris.pipeline.meters import Meter
from pseudoris.pipeline.resources import check_object_store, plan_actors, with_readers
from pseudoris.pipeline.run_contract import RetryTally, RunOptions, RunPlan, RunSummary, table_globs
from pseudoris.pipeline.run_plan import Opened, opened
from pseudoris.pipeline.shard_tasks import Job
from pseudoris.pipeline.stored_masks import StoredMasks
from pseudoris.primitives.uris import writable
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.run_records import Identity, RunHeader
from pseudoris.store.runs.attempts import parse_attempts
from pseudoris.store.runs.extension import ExtensionTally, new_entries
from pseudoris.store.runs.header import check_identity
from pseudoris.store.runs.lock import RunLock
from pseudoris.store.runs.manifest import cached_receipts
from pseudoris.store.runs.pending_work import (
    Committed,
    Notice,
    OnEvent,
    PendingWork,
    Planned,
    Retried,
    RunEvent,
    Step,
    ignore,
    missing_shards,
    num_to_retry,
    quarantined_shards,
)
from pseudoris.store.runs.plan import PlanTally, assign_shards, iter_plan
from pseudoris.store.runs.planned_run import Lister, PlannedRun, RunRequest, may_give_way, plan_run
from pseudoris.store.runs.receipts import Totals, latest_receipts
from pseudoris.store.runs.repair import damaged_receipts
from pseudoris.store.runs.stored_exclusions import ExcludedItems
from pseudoris.store.sessions.session import Executor, Outcome, RunSession, trim_memory
from pseudoris.store.sources import SourceItem
from pseudoris.workers.stages import STAGE_PROPOSE, STAGES, with_check

# Bytes of a shard's footers and column docs, and compressed bytes of each row. Source: measured, all four tables, on
# the demonstration run (69 images, 321 masks, 14,124 draws, `tiny`).
BYTES_PER_SHARD: Final = 16_000
BYTES_PER_IMAGE: Final = 100
BYTES_PER_MASK: Final = 150
BYTES_PER_DRAW: Final = 30
# The estimate assumes this many masks per image, because no model has run yet. The demonstration's scenes have 4.6.
ASSUMED_MASKS_PER_IMAGE: Final = 5


def annotate(
    source: str, out: str, config: RunConfig, *, options: RunOptions | None = None, on_event: OnEvent = ignore
) -> RunSummary:
    """Annotate SOURCE into OUT, or continue the run in OUT where an earlier session ended.

    Ctrl-C, SIGTERM or SIGHUP while shards are processed ends the session cleanly: the summary says `interrupted`, and
    the same call continues. Before the first shard, KeyboardInterrupt is raised and nothing has begun. `on_event` gets
    the plan, each commit as it lands, and notices for the user.

    Raises:
        ConfigError: The user must correct something. Nothing was reserved or computed, unless the error is a worker's.
    """
    options = options or RunOptions()
    location = RunLocation.open(writable(out), config.source.endpoint_url, config.placement.storage)
    # The stack of locks is closed last, so the lock is held until Ray has ended.
    with interruptible() as interrupts, ExitStack() as locks, ExitStack() as stack:
        start = opened(source, location, config, options, on_event)
        config, begun = start.config, None
        location.probe()
        held = RunLock.held(location, on_wait=lambda text: on_event(Notice(text)))
        lock = None if start.header is None else locks.enter_context(held)
        begin = partial(_begin, start, location, options=options, on_event=on_event)
        if lock is not None and start.here is not None and not options.is_extension:
            # Ray takes seconds to start, so this machine checks first whether the run is complete.
            begun = begin(start.here, lock, start.listing.list)
            if not begun.pending.shards:
                return begun.finish({}, _nothing)
        # The executor imports Ray Data, which takes seconds, so mistakes in SOURCE or OUT are reported first.
        executor = importlib.import_module("pseudoris.pipeline.executor")
        # An interrupt that came during the import ends the run here, before Ray takes seconds to start.
        interrupts.check()
        on_event(Step("connecting to Ray"))
        may_grow = stack.enter_context(connected(config.placement.address, config.placement.start_timeout_s))
        actors = plan_actors(node_resources(), config)
        on_event(Step("checking the device"))
        listed = partial(list_on_cluster, start.listing, config.placement.read)
        # Missing weights on a node are reported before the listing, which may take an hour. A new run takes its lock
        # only here: if its images are refused, nothing is left in OUT.
        begun = begun or begin(start.identity(), lock or locks.enter_context(held), listed)
        header, generations = begun.planned.header, begun.pending.base_generations
        nodes = node_resources()
        config = with_readers(nodes, config, actors, header, may_grow=may_grow)
        check_object_store(nodes, config, actors, header.max_shard_bytes)
        interrupts.check()
        masks = None if start.parent is None else StoredMasks.pinned(start.parent, begun.planned.parent)
        job = Job(start.listing.name, location, header, config, may_grow=may_grow, masks=masks, generations=generations)
        job = replace(job, is_retry=options.is_retry, reasons=options.reasons)
        return begun.finish(actors, executor.ray_executor(job, actors, interrupts, on_event))


def _nothing(pending: PendingWork) -> Generator[Outcome]:
    """The executor of a session that has nothing to do."""
    yield from ()


@dataclass(frozen=True, slots=True)
class _Begun:
    """A run with a plan, what is missing of it, and what of SOURCE is left out."""

    location: RunLocation
    planned: PlannedRun
    session: RunSession
    pending: PendingWork
    events: _MeteredEvents
    left_out: tuple[str, ...]
    is_retry: bool

    def finish(self, actors: Mapping[str, int], execute: Executor) -> RunSummary:
        """Compute what is pending, then finish the run; return the outcome."""
        session, header, pending = self.session, self.planned.header, self.pending
        if self.is_retry:
            self.events(Planned(pending.num_images, 0, len(pending.shards), 0, actors, is_retry=True))
        else:
            self.events(Planned(header.num_images, session.num_images, header.num_shards, len(session.latest), actors))
        outcome = session.execute(pending, execute)
        retried = self.events.retried
        return RunSummary(
            out=self.location.root,
            totals=outcome.totals,
            num_planned_images=header.num_images,
            num_planned_shards=header.num_shards,
            num_shards_before=outcome.num_shards_before,
            num_images_now=retried.num_images if self.is_retry else outcome.num_images_now,
            wall_s=outcome.wall_s,
            tables=table_globs(self.location.uri),
            interrupted=outcome.is_interrupted,
            retry=retried if self.is_retry else None,
            warning=header.warning,
            left_out=self.left_out,
        )


def _begin(
    start: Opened,
    location: RunLocation,
    identity: Identity,
    lock: RunLock,
    lister: Lister,
    *,
    options: RunOptions,
    on_event: OnEvent,
) -> _Begun:
    """Plan or resume the run, and find out what is missing, or what a retry tries again."""
    on_event(Step("listing and planning"))
    request = RunRequest("annotate", start.listing.name, identity, start.config, limit=options.limit, lock=lock)
    request = replace(request, exclusions=options.exclusions, is_extension=options.is_extension)
    planned = plan_run(location, request, start.parent or lister)
    left_out = tuple(start.listing.left_out.notices())
    for text in (*planned.notices, *left_out):
        on_event(Notice(text))
    trim_memory()
    events = _MeteredEvents(Meter(location.root), options.reasons, on_event)
    session = RunSession(location, planned.header, lock, on_event=events)
    if options.is_retry:
        pending = quarantined_shards(session.receipts(), options.reasons)
        if not pending.shards:
            which = "" if options.reasons is None else f" as {' or '.join(sorted(options.reasons))}"
            on_event(Notice(f"no image is quarantined{which}: there is nothing to retry"))
    else:
        attempts, _ = parse_attempts(location)
        pending = missing_shards(planned.header, session.latest, frozenset(attempt.shard for attempt in attempts))
        if planned.is_repair:
            on_event(Step("reading all parts"))
            pending = session.with_damaged(pending)
    return _Begun(location, planned, session, pending, events, left_out, options.is_retry)


class _MeteredEvents:
    """Counts commits in the run's metrics; reports one that replaces another as `Retried`, and sums up the retry."""

    def __init__(self, meter: Meter, reasons: frozenset[str] | None, on_event: OnEvent) -> None:
        self.retried = RetryTally()
        self._meter, self._reasons, self._on_event = meter, reasons, on_event

    def __call__(self, event: RunEvent) -> None:
        if isinstance(event, Committed) and event.replaced is not None:
            num_images = num_to_retry(event.replaced, self._reasons)
            num_recovered = event.replaced.counts.quarantined - event.receipt.counts.quarantined
            is_changed = event.receipt.generation > event.replaced.generation
            self.retried += RetryTally(num_images, num_recovered, 1, int(is_changed))
            self._on_event(Retried(event.receipt, num_images, num_recovered))
        else:
            self._on_event(event)
        if isinstance(event, Committed):
            self._meter.count_commit(event.receipt)


def dry_run(source: str, out: str, config: RunConfig, *, options: RunOptions | None = None) -> RunPlan:
    """Return what `annotate` would do with the same arguments. Nothing is written, no model is loaded.

    Ray is not started for a SOURCE on a disk, unless a GPU is asked for, which only a process of Ray sees.

    Raises:
        ConfigError: `annotate` would refuse to start: weights, identity, resources or SOURCE are wrong.
    """
    options = replace(options or RunOptions(), is_dry=True)
    location = RunLocation.open(writable(out), config.source.endpoint_url, config.placement.storage)
    start = opened(source, location, config, options)
    config, listing, header = start.config, start.listing, start.header
    has_gpus = any(pool.num_gpus for pool in config.model_pools().values())
    needs_ray = start.here is None or listing.root.store != "disk" or has_gpus
    with connected(config.placement.address, config.placement.start_timeout_s) if needs_ray else nullcontext():
        actors = plan_actors(node_resources() if needs_ray else [lone_node()], config)
        identity = start.identity()
        if header is not None and not may_give_way(location, header, options.exclusions):
            check_identity(header, identity, preset=config.preset, allow_mixed=config.placement.allow_mixed)
        items = list_on_cluster(listing, config.placement.read) if needs_ray else listing.list()
        excluded = ExcludedItems(options.exclusions)
        tally = _counted(start, location, items, options.limit, excluded)
        extension = _extended(tally, items, location, header, options)
    output_bytes, basis, num_done = _estimate(location, tally, config)
    origins = {stage.name: str(stage.settings(config).weights.uri) for stage in with_check(STAGES, config)}
    if config.placement.masks_from is not None:
        origins[STAGE_PROPOSE] = f"masks of {config.placement.masks_from}"
    receipts = cached_receipts(location) if options.is_retry else ()
    damaged = damaged_receipts(location, latest_receipts(location)) if config.placement.repair else None
    return RunPlan(
        source=listing.name,
        out=location.root,
        num_images=tally.num_images,
        num_repeated=tally.num_repeated,
        num_shards=tally.num_shards,
        num_shards_done=num_done,
        input_bytes=tally.size_bytes,
        actors=actors,
        weights={name: (origin, identity.weights[name]) for name, origin in origins.items()},
        device_kind=identity.device_kind,
        output_bytes=output_bytes,
        output_basis=basis,
        extension=extension,
        num_to_retry=quarantined_shards(receipts, options.reasons).num_images if options.is_retry else None,
        num_to_repair=None if damaged is None else sum(1 for _ in damaged),
        num_excluded=excluded.total,
        left_out=(*(excluded.notices() if header is None else ()), *listing.left_out.notices()),
    )


def _counted(
    start: Opened, location: RunLocation, items: Iterator[SourceItem], limit: int | None, excluded: ExcludedItems
) -> PlanTally:
    """Count the plan that a session follows: the parent's, else that in OUT, else a plan of the listed items."""
    header = start.header
    if start.parent is not None:
        location, header = start.parent.location, start.parent.header
    if header is not None:
        size_bytes = sum(entry.size_bytes or 0 for _, entries in iter_plan(location, header) for entry in entries)
        return PlanTally(header.num_images, header.num_shards, header.num_repeated, size_bytes)
    tally = PlanTally()
    for _ in itertools.islice(assign_shards(excluded.kept(items), start.config.shards, tally=tally), limit):
        pass
    excluded.check_left(tally.num_images)
    return tally


def _extended(
    tally: PlanTally, items: Iterator[SourceItem], location: RunLocation, header: RunHeader | None, options: RunOptions
) -> ExtensionTally | None:
    """Add to the tally what `--extend` would plan, and return that."""
    if header is None or not options.is_extension:
        return None
    found = ExtensionTally()
    for _ in new_entries(location, header, items, tally=found, limit=options.limit):
        pass
    tally.num_images += found.num_images
    tally.num_shards += found.num_shards
    tally.size_bytes += found.size_bytes
    return found


def _estimate(location: RunLocation, tally: PlanTally, config: RunConfig) -> tuple[int, str, int]:
    """Return the tables' estimated bytes, the basis of the estimate, and the number of committed shards."""
    done = Totals(cached_receipts(location)).sum()
    if done.images:
        basis = f"from the {done.images} images committed so far, {done.output_bytes // done.images} bytes each"
        return done.output_bytes * tally.num_images // done.images, basis, done.shards
    captions = config.captions
    # A mask gets this many captions per crop: one by beam search, and one for each sampling setting.
    draws = bool(captions.beam.num_beams) + len(captions.sampling.top_k) + len(captions.sampling.top_p)
    draws *= len(captions.context_scales) + captions.has_masked_crop
    per_mask = BYTES_PER_MASK + draws * BYTES_PER_DRAW
    tables = tally.num_shards * BYTES_PER_SHARD
    tables += tally.num_images * (BYTES_PER_IMAGE + ASSUMED_MASKS_PER_IMAGE * per_mask)
    basis = f"assuming {ASSUMED_MASKS_PER_IMAGE} masks per image, {per_mask:,} bytes per mask as on the bundled scenes"
    if config.shards.embed_images:
        return tables + tally.size_bytes, f"{basis}, plus the embedded images", 0
    return tables, basis, 0
