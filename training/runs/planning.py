"""The plan that a run stands on: frozen by the first call, continued by every later one of the same origin."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from schemas.config import RunConfig
from schemas.run import Identity, Origin, ParentRun, RunHeader
from store.header import check_identity, check_origin, check_source, read_header
from store.location import RunLocation
from store.planning import plan_run
from store.sources import SourceItem


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A run that may be worked on.

    Attributes:
        header: That stands.
        mixed: Lines of `Identity.mixed_differences`, under `placement.allow_mixed`.
    """

    header: RunHeader
    mixed: tuple[str, ...]


def plan_or_continue(
    location: RunLocation,
    items: Callable[[], Iterable[SourceItem]],
    *,
    origin: Origin,
    source: str,
    identity: Identity,
    config: RunConfig,
    parent: Callable[[], ParentRun] | None = None,
) -> PlannedRun:
    """Return the plan that stands in `location`, made where there is none.

    Args:
        location: Of a new run, or of one that the same call began.
        items: Lists the images, in the order of their keys; called only where there is no plan.
        origin: What makes the tables.
        source: A `Source.name`, or where the parent stands.
        identity: What must be equal for two calls to belong to one run.
        config: Its `shards` bound the shards.
        parent: Pins the run that this one is made from; called only where there is no plan.

    Raises:
        ConfigError: The listing ends in one, or the run there is of another origin, source or identity.
        TransientError: Storage failed.
    """
    header = read_header(location)
    if header is None:
        pinned = None if parent is None else parent()
        header = plan_run(
            location, items(), source=source, identity=identity, config=config, origin=origin, parent=pinned
        )
    check_origin(location, header, origin)
    mixed = check_identity(header, identity, allow_mixed=config.placement.allow_mixed)
    check_source(header, source)
    return PlannedRun(header, tuple(mixed))


def package_versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the version of each package, `absent` where it is not installed."""
    return {name: _version(name) for name in packages}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
