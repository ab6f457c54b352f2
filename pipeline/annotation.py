"""Annotates SOURCE into OUT: plans a run or resumes it, computes its shards on Ray, and returns a summary.

Called by `cli/annotate.py` and `pseudoris.annotate`. What can be refused without Ray is refused before Ray starts, and
the lock is held from before the plan until Ray has ended.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

from pseudoris.pipeline.interrupts import interruptible
from pseudoris.pipeline.meters import Meter
from pseudoris.pipeline.run_contract import DryRun, RetryTally, RunOptions, RunSummary, output_size, table_globs
from pseudoris.pipeline.run_plan import RunPlan, opened
from pseudoris.schemas.config import RunConfig
from pseudoris.store.reports.run_status import run_status
from pseudoris.store.runs.attempts import parse_attempts
from pseudoris.store.runs.lock import RunLock
from pseudoris.store.runs.manifest import cached_receipts, has_results
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
from pseudoris.store.runs.planned_run import ACCEPTED, PlannedRun, plan_run
from pseudoris.store.runs.receipts import Totals, latest_receipts
from pseudoris.store.sessions.session import Executor, Outcome, RunSession, trim_memory
from pseudoris.store.tables.parts import damaged_receipts
from pseudoris.workers.stages import STAGE_PROPOSE, STAGES


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
    # The stack of locks is closed last, so the lock is held until Ray has ended.
    with interruptible() as interrupts, ExitStack() as locks, ExitStack() as stack:
        plan, begun = opened(source, out, config, options or RunOptions(), on_event), None
        plan.location.probe()
        held = RunLock.held(plan.location, on_wait=lambda text: on_event(Notice(text)))
        lock = None if plan.header is None else locks.enter_context(held)
        has_moved, is_on_disk = plan.options.moved_from is not None, plan.source.root.store == "disk"
        is_listed = plan.options.is_extension or (has_moved and not is_on_disk)
        if lock and plan.identity and not is_listed and has_results(plan.location):
            # Ray takes seconds to start, so this machine checks first whether the run is complete.
            begun = _begin(plan, lock, on_event)
            if not begun.pending.shards:
                return begun.finish({}, lambda _: (each for each in list[Outcome]()))
        on_event(Step("connecting to Ray"))
        cpu_kind = stack.enter_context(plan.measuring())
        # The executor imports Ray Data, which takes seconds, so mistakes in SOURCE or OUT are reported first.
        executor = importlib.import_module("pseudoris.pipeline.executor")
        # An interrupt that came during the import ends the run here, before Ray takes seconds to start.
        interrupts.check()
        plan = stack.enter_context(plan.placed(on_event, cpu_kind))
        if begun and (mixed := set(plan.check_identity()).difference(begun.planned.mixed)):
            on_event(Notice(ACCEPTED + "; ".join(sorted(mixed))))
        # A new run takes its lock only here: if its images are refused, nothing is left in OUT.
        begun = begun or _begin(plan, lock or locks.enter_context(held), on_event)
        job = plan.job(begun.planned, begun.pending.base_generations)
        interrupts.check()
        return begun.finish(plan.actors, executor.ray_executor(job, plan.actors, interrupts, on_event))


@dataclass(frozen=True, slots=True)
class _Begun:
    """A plan that is frozen in OUT, and what is missing of its run."""

    plan: RunPlan
    planned: PlannedRun
    session: RunSession
    pending: PendingWork
    events: _MeteredEvents

    def finish(self, actors: Mapping[str, int], execute: Executor) -> RunSummary:
        """Compute what is pending, then finish the run; return the outcome."""
        session, header, pending = self.session, self.planned.header, self.pending
        location, is_retry = self.plan.location, self.plan.options.is_retry
        if is_retry:
            self.events(Planned(pending.num_images, 0, len(pending.shards), 0, actors, is_retry=True))
        else:
            self.events(Planned(header.num_images, session.num_images, header.num_shards, len(session.latest), actors))
        outcome = session.execute(pending, execute)
        retried = self.events.retried
        return RunSummary(
            out=location.root,
            totals=outcome.totals,
            num_planned_images=header.num_images,
            num_planned_shards=header.num_shards,
            num_shards_before=outcome.num_shards_before,
            num_images_now=retried.num_images if is_retry else outcome.num_images_now,
            wall_s=outcome.wall_s,
            tables=table_globs(location.uri),
            interrupted=outcome.is_interrupted,
            retry=retried if is_retry else None,
            warning=header.warning,
            left_out=tuple(self.plan.source.left_out.notices()),
            speed=run_status(location).rates.text if outcome.num_images_now else "–",
            copies=outcome.copies,
        )


def _begin(plan: RunPlan, lock: RunLock, on_event: OnEvent) -> _Begun:
    """Freeze the plan, or take the one in OUT; find out what is missing, or what a retry tries again."""
    on_event(Step("listing and planning"))
    location, options = plan.location, plan.options
    planned = plan_run(location, replace(plan.request(), lock=lock), plan.parent or plan.items)
    told = {"By the card": plan.by_card, "Captions": plan.slower_decoder}
    of_card = [f"{name}: {text}" for name, text in told.items() if text]
    for text in (*planned.notices, *plan.source.left_out.notices(), *of_card):
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
    return _Begun(plan, planned, session, pending, events)


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


def dry_run(source: str, out: str, config: RunConfig, *, options: RunOptions | None = None) -> DryRun:
    """Return what `annotate` would do with the same arguments. Nothing is written, no model is loaded.

    Ray is not started for a SOURCE on a disk, unless a GPU is asked for, which only a process of Ray sees.

    Raises:
        ConfigError: `annotate` would refuse to start: weights, identity, resources or SOURCE are wrong.
    """
    plan = opened(source, out, config, replace(options or RunOptions(), is_dry=True))
    with plan.measuring() as cpu_kind, plan.placed(cpu_kind=cpu_kind, with_ray=plan.needs_ray) as plan:
        committed = Totals(cached_receipts(plan.location)).sum()
        is_asked = plan.options.is_extension or plan.options.is_retry or config.placement.repair
        # A run that is complete computes nothing, so another machine may ask for it.
        if is_asked or plan.header is None or committed.shards < plan.header.num_shards:
            plan.check_identity()
        tally, extension, excluded = plan.counted()
    location, reasons, listing, config = plan.location, plan.options.reasons, plan.source, plan.config
    identity = plan.request().identity
    origins = {stage.name: str(stage.settings(config).weights.uri) for stage in STAGES}
    if config.placement.masks_from is not None:
        origins[STAGE_PROPOSE] = f"masks of {config.placement.masks_from}"
    output_bytes, basis = output_size(tally, committed, config)
    to_retry = quarantined_shards(cached_receipts(location), reasons) if plan.options.is_retry else None
    damaged = damaged_receipts(location, latest_receipts(location)) if config.placement.repair else None
    return DryRun(
        source=listing.name,
        out=location.root,
        num_images=tally.num_images,
        num_repeated=tally.num_repeated,
        num_shards=tally.num_shards,
        num_shards_done=committed.shards,
        input_bytes=tally.size_bytes,
        actors=plan.actors,
        weights={name: (origin, identity.weights[name]) for name, origin in origins.items()},
        device_kind=identity.device_kind,
        output_bytes=output_bytes,
        output_basis=basis,
        extension=extension,
        num_to_retry=None if to_retry is None else to_retry.num_images,
        num_to_repair=None if damaged is None else sum(1 for _ in damaged),
        num_excluded=excluded.total,
        left_out=(*(excluded.notices() if plan.header is None else ()), *listing.left_out.notices()),
        decoder=plan.decoder,
        by_card=plan.by_card,
    )
