"""Plan or resume: the header that stands for a run, made where there is none."""

from __future__ import annotations

from pathlib import Path

from pipeline.cluster import identity_on_cluster
from pipeline.planning import plan_run
from pipeline.sources import Source
from pipeline.summary import Notice, OnEvent
from schemas.config import RunConfig
from schemas.errors import ConfigError
from schemas.run import RunHeader
from store.header import check_identity, read_header
from store.location import RunLocation


def plan_or_resume(
    source: Source, location: RunLocation, config: RunConfig, *, limit: int | None, on_event: OnEvent
) -> RunHeader:
    """Return the header of the run in `location`, after listing and planning where there is none.

    A plan that stands is neither listed anew nor changed.

    Raises:
        ConfigError: The run has another identity or another SOURCE, or there is nothing to plan.
        TransientError: Storage or the cluster failed.
    """
    # Before the listing, which may take an hour: a missing weight is known first.
    identity = identity_on_cluster(config)
    standing = read_header(location)
    header = standing or plan_run(
        location, source.list(), source=source.name, identity=identity, config=config, limit=limit
    )
    check_identity(header, identity)
    check_source(header, source.name)
    if standing is not None and limit is not None and limit != header.num_images:
        on_event(Notice(f"the run's plan stands with {header.num_images} images; --limit {limit} does not change it"))
    return header


def check_source(header: RunHeader, source: str) -> None:
    """Accept `source`, a `Source.name`, where it is the one that the run was planned from.

    A copy in another place is refused as well. Ids are relative to SOURCE and would hold, but its files may have
    other times or etags: their images would be quarantined as changed.

    Raises:
        ConfigError: It is another one.
    """
    if _place(header.source) != _place(source):
        raise ConfigError(
            f"this output was planned from SOURCE {header.source!r}, and is given {source!r} now. Give the first "
            "again to continue, or name another output"
        )


def _place(source: str) -> str:
    # Followed here and not in the header: `../photos` names one folder from two others.
    return source.rstrip("/") if "://" in source else str(Path(source).resolve())
