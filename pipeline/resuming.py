"""Plan or resume: the header that stands for a run, made where there is none."""

from __future__ import annotations

from pipeline.cluster import identity_on_cluster
from pipeline.extending import ExtensionTally, extend_plan
from pipeline.indexing import list_on_cluster
from pipeline.summary import Notice, OnEvent
from schemas.config import RunConfig
from schemas.placement import PoolConfig
from schemas.run import RunHeader
from store.header import check_identity, check_origin, check_source, read_header
from store.location import RunLocation
from store.planning import plan_run
from store.sources import Source


def plan_or_resume(
    source: Source,
    location: RunLocation,
    config: RunConfig,
    *,
    limit: int | None,
    on_event: OnEvent,
    is_extended: bool = False,
) -> RunHeader:
    """Return the header of the run in `location`, after listing and planning where there is none.

    A plan that stands is neither listed anew nor changed, unless it `is_extended` by what SOURCE has gained.

    Raises:
        ConfigError: The run has another identity or another SOURCE, or there is nothing to plan.
        TransientError: Storage or the cluster failed.
    """
    # Before the listing, which may take an hour: a missing weight is known first.
    identity = identity_on_cluster(config)
    standing = read_header(location)
    header = standing or plan_run(
        location,
        list_on_cluster(source, config.placement.read),
        source=source.name,
        identity=identity,
        config=config,
        limit=limit,
    )
    check_origin(location, header, "annotate")
    accepted = check_identity(header, identity, allow_mixed=config.placement.allow_mixed)
    check_source(header, source.name)
    if accepted:
        on_event(Notice(f"outside promise 2, as --allow-mixed accepts: {'; '.join(accepted)}"))
    if is_extended and standing is not None:
        return _extend(source, location, header, pool=config.placement.read, limit=limit, on_event=on_event)
    if standing is not None and limit is not None and limit != header.num_images:
        on_event(Notice(f"the run's plan stands with {header.num_images} images; --limit {limit} does not change it"))
    return header


def _extend(
    source: Source,
    location: RunLocation,
    header: RunHeader,
    *,
    pool: PoolConfig,
    limit: int | None,
    on_event: OnEvent,
) -> RunHeader:
    extended, tally = extend_plan(location, header, list_on_cluster(source, pool), limit=limit)
    for text in extension_notices(tally):
        on_event(Notice(text))
    return extended


def extension_notices(tally: ExtensionTally) -> list[str]:
    """Return what a user should know of a second listing, a sentence each."""
    repeated = f"; {tally.num_repeated:,} repeated listings counted once" if tally.num_repeated else ""
    texts = [
        f"SOURCE has gained {tally.num_new:,} images, in {tally.num_shards:,} new shards{repeated}"
        if tally.num_new
        else "SOURCE has gained no image: the plan stays as it is"
    ]
    if tally.num_changed:
        texts.append(
            f"{tally.num_changed:,} planned images have changed since and are left alone ({_some(tally.changed)}): "
            "those not annotated yet will be quarantined as changed; for new ones, name another output"
        )
    if tally.num_vanished:
        texts.append(
            f"{tally.num_vanished:,} planned images are not listed any more ({_some(tally.vanished)}): "
            "those not annotated yet will be quarantined as missing"
        )
    return texts


def _some(keys: list[str]) -> str:
    return ", ".join([*keys[:3], "…"] if len(keys) > 3 else keys)
