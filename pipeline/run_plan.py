"""Opens SOURCE and OUT, and refuses before Ray starts, in seconds, what can be refused without it.

Called by `annotation` and `sample_estimate`. It writes nothing, and gives `annotate`, its dry run and an estimate the
same answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from pseudoris.files.location import RunLocation
from pseudoris.pipeline.cluster import joins_cluster
from pseudoris.pipeline.identity import identity_before_ray, identity_on_cluster, may_download
from pseudoris.pipeline.run_contract import RunOptions, check_options
from pseudoris.pipeline.stored_masks import masks_parent, with_masks_of
from pseudoris.primitives.errors import ConfigError, gather
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.run_records import Identity, RunHeader
from pseudoris.store.runs.garbage import refuse_unexpected_files
from pseudoris.store.runs.header import planned_source, refuse_queries
from pseudoris.store.runs.pending_work import OnEvent, Step, ignore
from pseudoris.store.runs.planned_run import Parent, may_give_way
from pseudoris.store.runs.stored_exclusions import check_exclusions
from pseudoris.store.sources import Source, open_source
from pseudoris.store.tables.judged_expressions import check_scored
from pseudoris.workers.checkpoints.weight_files import is_unfetched
from pseudoris.workers.stages import STAGE_PROPOSE, STAGES, with_check


@dataclass(frozen=True, slots=True)
class Opened:
    """SOURCE and OUT of a session, checked as far as they can be before Ray starts, which takes seconds.

    Attributes:
        listing: SOURCE.
        header: Of the run in OUT; None if there is none.
        here: The identity of this machine; None if an existing cluster, or a GPU, does the work.
        config: Of this session; with a `parent`, its settings of masks, SOURCE, images and shards.
        parent: The run that the masks are taken from; None if they are proposed.
        stored: By stage, digests that are not measured: of a parent, or not known before weights are fetched.
    """

    listing: Source
    header: RunHeader | None
    here: Identity | None
    config: RunConfig
    parent: Parent | None
    stored: Mapping[str, str]

    def identity(self) -> Identity:
        """Return the identity, which a node of the cluster measures if this machine does not do the work."""
        return self.here or identity_on_cluster(self.config, self.stored)


def opened(
    source: str, location: RunLocation, config: RunConfig, options: RunOptions, on_event: OnEvent = ignore
) -> Opened:
    """Open SOURCE and OUT for `annotate`, its dry run or an estimate.

    A run in OUT that does not fit is refused, unless it has no receipt and no driver: another may be planned there.
    """
    on_event(Step("opening SOURCE and OUT"))
    header = check_options(location, options, is_repair=config.placement.repair)
    try:
        return _opened(source, location, config, options, header, on_event=on_event)
    except ConfigError:
        is_old = options.is_extension or options.is_retry or config.placement.repair
        if header is None or is_old or not may_give_way(location, header, options.exclusions):
            raise
    return _opened(source, location, config, options, None, on_event=on_event)


def _opened(
    source: str,
    location: RunLocation,
    config: RunConfig,
    options: RunOptions,
    header: RunHeader | None,
    *,
    on_event: OnEvent,
) -> Opened:
    if header is not None:
        check_exclusions(header, options.exclusions)
    check_scored(config, config.filtering.keep, location.root)
    if header is None:
        refuse_unexpected_files(location)
        refuse_queries(config, source)
    elif not options.is_extension:
        source = planned_source(header, source)
    recorded, limits = None if header is None else header.source, config.placement.storage
    listing = open_source(source, config.source, exclude=location.root, limits=limits, recorded=recorded)
    on_event(Step("checking weights and packages"))
    parent = masks_parent(config, location, header, options)
    if parent is not None:
        config = with_masks_of(parent, config, listing.name)
    elif header is None:
        listing.check_not_empty()
    stored = {} if parent is None else {STAGE_PROPOSE: parent.header.identity.weights[STAGE_PROPOSE]}
    if options.is_dry:
        stages = [stage for stage in with_check(STAGES, config) if stage.name not in stored]
        # Weights that the run itself would fetch may be missing in a dry run; for others `identity_before_ray` raises.
        if joins_cluster(config.placement.address) or may_download(config, stages):
            found = gather(*(partial(is_unfetched, stage.settings(config).weights) for stage in stages))
            names = [stage.name for stage, is_missing in zip(stages, found, strict=True) if is_missing]
            stored |= {name: header.identity.weights.get(name, "") if header else "not fetched" for name in names}
    here = identity_before_ray(config, header, listing.name, location=location, stored=stored)
    return Opened(listing, header, here, config, parent, stored)
