"""`annotate`: plan or resume a run, execute the session on Ray, return a summary."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace

from pseudoris.pipeline.cluster import connected, node_resources
from pseudoris.pipeline.domain_sample import accepted_domain, sampled
from pseudoris.pipeline.fan_out import list_on_cluster
from pseudoris.pipeline.identity import identity_before_ray, identity_on_cluster
from pseudoris.pipeline.interrupts import Interrupts, interruptible
from pseudoris.pipeline.meters import RunMeter
from pseudoris.pipeline.resources import check_object_store, plan_actors
from pseudoris.pipeline.run_contract import (
    RetryTally,
    RunOptions,
    RunSummary,
    check_options,
    sampled_without,
    table_globs,
)
from pseudoris.pipeline.shard_tasks import Job, Retry
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.domain import DomainRecord
from pseudoris.schemas.run_records import Identity, RunHeader
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.attempts import parse_attempts
from pseudoris.store.runs.extension import extend_plan, extension_notices
from pseudoris.store.runs.header import read_header
from pseudoris.store.runs.lock import RunLock
from pseudoris.store.runs.pending_work import (
    Committed,
    Notice,
    OnEvent,
    Planned,
    Retried,
    RunEvent,
    Step,
    ignore,
    missing_shards,
    num_to_retry,
    quarantined_shards,
)
from pseudoris.store.runs.planned_run import RunRequest, plan_or_continue
from pseudoris.store.runs.session import RunSession, SessionOutcome, trim_memory
from pseudoris.store.runs.stored_exclusions import exclusion_notices
from pseudoris.store.sources import Source, open_source


def annotate(
    source: str,
    out: str,
    config: RunConfig,
    *,
    options: RunOptions | None = None,
    on_event: OnEvent = ignore,
) -> RunSummary:
    """Annotate SOURCE into OUT, or continue the run in OUT where an earlier session ended.

    Ctrl-C or SIGTERM while shards are processed ends the session cleanly: the summary says `interrupted`, and the same
    call continues. Before the first shard, KeyboardInterrupt is raised and nothing has begun.

    Args:
        source: A folder, a glob, an fsspec url, WebDataset tars or Parquet files.
        out: A local path or an fsspec url. If it holds a run, that run is continued.
        config: The resolved configuration.
        options: What this session does besides continuing the plan, e.g. `RunOptions(limit=20)`.
        on_event: Called with the plan, with each commit as it lands, and with notices for the user.

    Raises:
        ConfigError: The user must correct something. Nothing was reserved or computed, unless the message says that a
            worker found the error.
    """
    options = options or RunOptions()
    location = RunLocation.open(out, config.source.endpoint_url, config.placement.storage)
    with interruptible() as interrupts:
        on_event(Step("opening SOURCE and OUT"))
        check_options(location, options)
        # Checked before anything is written or started: most mistakes are in a path.
        listing = open_source(source, config.source, exclude=location.root, limits=config.placement.storage)
        on_event(Step("checking weights and packages"))
        existing = read_header(location)
        if existing is None:
            listing.check_not_empty()
        with ExitStack() as stack:
            domain_found = stack.enter_context(sampled(config, listing, sampled_without(location, existing, options)))
            here = identity_before_ray(config, existing, listing.name, location=location)
            # Seconds, which the sample takes too: so it is not among the imports above.
            importlib.import_module("pseudoris.pipeline.executor")
            location.probe()
            # Given back after Ray has ended.
            locks = stack.enter_context(ExitStack())
            held = RunLock.held(location, on_wait=lambda text: on_event(Notice(text)))
            lock = None if existing is None else locks.enter_context(held)
            # An import may have put it off, and the start of Ray would for seconds more.
            interrupts.check()
            on_event(Step("connecting to Ray"))
            may_grow = stack.enter_context(connected(config.placement.address, config.placement.start_timeout_s))
            actors = plan_actors(node_resources(), config)
            on_event(Step("checking the device"))
            # Before the listing, which may take an hour: missing weights on a node are reported first.
            identity = here or identity_on_cluster(config)
            domain = accepted_domain(domain_found(), config, lambda text: on_event(Notice(text)))
            # Of a new run not before: if its images are refused, it leaves nothing in OUT.
            lock = lock or locks.enter_context(held)
            on_event(Step("listing and planning"))
            header = plan_or_resume(
                listing, location, config, identity, options=options, domain=domain, on_event=on_event
            )
            left_out = tuple(listing.left_out.notices())
            for text in left_out:
                on_event(Notice(text))
            trim_memory()
            check_object_store(node_resources(), config, actors, header.max_shard_bytes)
            interrupts.check()
            job = Job(listing.name, location, header, config, may_grow=may_grow)
            summary = _execute(job, actors, options, lock=lock, on_event=on_event, interrupts=interrupts)
            return replace(summary, left_out=left_out)


def plan_or_resume(
    source: Source,
    location: RunLocation,
    config: RunConfig,
    identity: Identity,
    *,
    options: RunOptions,
    domain: DomainRecord | None = None,
    on_event: OnEvent,
) -> RunHeader:
    """Return the header of the run in `location`. If there is no run, list SOURCE and write the plan first.

    An existing plan is neither listed again nor changed, except by `--extend`, which adds the new images of SOURCE.

    Raises:
        ConfigError: The run has another identity or another SOURCE, or there is nothing to plan.
    """
    pool = config.placement.read
    allow_mixed, exclusions = config.placement.allow_mixed, options.exclusions
    request = RunRequest(
        "annotate", source.name, identity, config, allow_mixed=allow_mixed, exclusions=exclusions, domain=domain
    )
    planned = plan_or_continue(location, request, lambda: list_on_cluster(source, pool), limit=options.limit)
    header = planned.header
    if planned.mixed:
        on_event(Notice(f"not byte-reproducible (accepted by --allow-mixed): {'; '.join(planned.mixed)}"))
    for text in exclusion_notices(header, is_new=planned.is_new, is_given=bool(exclusions)):
        on_event(Notice(text))
    if planned.is_new:
        return header
    if options.is_extension:
        header, tally = extend_plan(location, header, list_on_cluster(source, pool), limit=options.limit, domain=domain)
        for text in extension_notices(tally):
            on_event(Notice(text))
    elif options.limit not in (None, header.num_images):
        text = f"the run already has a plan of {header.num_images} images; --limit {options.limit} does not change it"
        on_event(Notice(text))
    return header


def _execute(
    job: Job,
    actors: Mapping[str, int],
    options: RunOptions,
    *,
    lock: RunLock,
    on_event: OnEvent,
    interrupts: Interrupts,
) -> RunSummary:
    """Compute the missing shards of the run, or retry its quarantined images; return the outcome."""
    from pseudoris.pipeline.executor import ray_executor

    retries = _RetryEvents(options.reasons, on_event)
    session = RunSession(job.location, lock, on_event=_metered(job, retries))
    if options.is_retry:
        pending = quarantined_shards(session.receipts(), options.reasons)
        if not pending.shards:
            which = "" if options.reasons is None else f" as {' or '.join(sorted(options.reasons))}"
            on_event(Notice(f"no image is quarantined{which}: there is nothing to retry"))
        planned = Planned(pending.num_images, 0, len(pending.shards), 0, actors, is_retry=True)
        job = replace(job, retry=Retry(pending.base_generations, options.reasons))
    else:
        begun, _ = parse_attempts(job.location)
        pending = missing_shards(job.header, session.latest, frozenset(attempt.shard for attempt in begun))
        num_images, num_shards = job.header.num_images, job.header.num_shards
        planned = Planned(num_images, session.num_images, num_shards, len(session.latest), actors)
    on_event(planned)
    outcome = session.execute(pending, ray_executor(job, actors, interrupts))
    return _summary(job, outcome, retries.tally if options.is_retry else None)


class _RetryEvents:
    """Reports a commit that replaces another one as `Retried`, and sums up the retry."""

    def __init__(self, reasons: frozenset[str] | None, on_event: OnEvent) -> None:
        self.tally = RetryTally()
        self._reasons = reasons
        self._on_event = on_event

    def __call__(self, event: RunEvent) -> None:
        if not isinstance(event, Committed) or event.replaced is None:
            self._on_event(event)
            return
        num_images = num_to_retry(event.replaced, self._reasons)
        num_recovered = event.replaced.counts.quarantined - event.receipt.counts.quarantined
        self.tally = RetryTally(
            num_images=self.tally.num_images + num_images,
            num_recovered=self.tally.num_recovered + num_recovered,
            num_shards=self.tally.num_shards + 1,
            num_shards_changed=self.tally.num_shards_changed + (event.receipt.generation > event.replaced.generation),
        )
        self._on_event(Retried(event.receipt, num_images, num_recovered))


def _metered(job: Job, on_event: OnEvent) -> OnEvent:
    """Return a callback that calls `on_event` and counts each commit in the run's metrics."""
    meter = RunMeter(job.location.root)

    def tell(event: RunEvent) -> None:
        on_event(event)
        if isinstance(event, Committed):
            meter.count(event.receipt)

    return tell


def _summary(job: Job, outcome: SessionOutcome, retry: RetryTally | None) -> RunSummary:
    return RunSummary(
        out=job.location.root,
        totals=outcome.totals,
        num_planned_images=job.header.num_images,
        num_planned_shards=job.header.num_shards,
        num_shards_before=outcome.num_shards_before,
        num_images_now=outcome.num_images_now if retry is None else retry.num_images,
        wall_s=outcome.wall_s,
        tables=table_globs(job.location.uri),
        interrupted=outcome.is_interrupted,
        retry=retry,
        domain=job.header.domain,
    )
