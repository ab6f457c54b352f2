"""The plan that a run stands on: frozen by the first call, continued by every later one of the same origin."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Self

from schemas.config import RunConfig
from schemas.config_loading import config_hash
from schemas.errors import ConfigError
from schemas.run import PLAN_FOLDER, Identity, Origin, RunHeader
from store.header import (
    check_identity,
    check_origin,
    check_source,
    create_header,
    read_header,
    require_header,
)
from store.location import RunLocation
from store.parents import check_parent, parent_part, pin_parent
from store.planning import plan_run
from store.sources import SourceItem
from store.strangers import refuse_strangers


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A run that may be worked on.

    Attributes:
        header: That stands.
        mixed: Lines of `Identity.mixed_differences`, under `placement.allow_mixed`.
    """

    header: RunHeader
    mixed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Parent:
    """A run that another one is made from."""

    location: RunLocation
    header: RunHeader

    @classmethod
    def open(cls, run: str, target: RunLocation) -> Self:
        """Open a run that the one at `target` is made from.

        Raises:
            ConfigError: There is none, or the two places lie in each other.
            TransientError: Storage failed.
        """
        location = RunLocation.open(run)
        if location.holds(target) or target.holds(location):
            raise ConfigError(
                f"the new run at {target.root} would lie in the one it is made from, {location.root}, or around it: "
                "name another place"
            )
        return cls(location, require_header(location))


def plan_or_continue(
    location: RunLocation,
    items: Callable[[], Iterable[SourceItem]],
    *,
    origin: Origin,
    source: str,
    identity: Identity,
    config: RunConfig,
    parent: Parent | None = None,
) -> PlannedRun:
    """Return the plan that stands in `location`, made where there is none.

    Args:
        location: Of a new run, or of one that the same call began.
        items: Lists the images, in the order of their keys; called only where there is no plan.
        origin: What makes the tables.
        source: A `Source.name`, or where the parent stands.
        identity: What must be equal for two calls to belong to one run.
        config: Its `shards` bound the shards.
        parent: The run that this one is made from, if any.

    Raises:
        ConfigError: The listing ends in one, or the run there is of another origin, source or identity.
        TransientError: Storage failed.
    """
    header = read_header(location)
    if header is None:
        pinned = None if parent is None else pin_parent(parent.location, parent.header)
        header = plan_run(
            location, items(), source=source, identity=identity, config=config, origin=origin, parent=pinned
        )
    return _accepted(location, header, identity, config, origin=origin, source=source, parent=parent)


def plan_as_parent(
    location: RunLocation, parent: Parent, *, origin: Origin, identity: Identity, config: RunConfig
) -> PlannedRun:
    """Return the plan that stands in `location`, made where there is none: the parent's own, shard by shard.

    Keys, ids and SOURCE are the parent's; what is read of SOURCE is read as the parent's header says.

    Raises, and takes the rest, as `plan_or_continue`.
    """
    before = parent.header
    config = config.model_copy(
        update={"source": before.config.source, "images": before.config.images, "shards": before.config.shards}
    )
    header = read_header(location)
    if header is None:
        refuse_strangers(location)
        pinned = pin_parent(parent.location, before)
        for part in before.plan_parts:
            location.put_part(f"{PLAN_FOLDER}/{part.name}", parent_part(parent.location, PLAN_FOLDER, part))
        made = {
            "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "identity": identity,
            "config": config,
            "config_sha256": config_hash(config),
            "origin": origin,
            "parent": pinned,
        }
        header = create_header(location, before.model_copy(update=made))
    return _accepted(location, header, identity, config, origin=origin, source=before.source, parent=parent)


def _accepted(
    location: RunLocation,
    header: RunHeader,
    identity: Identity,
    config: RunConfig,
    *,
    origin: Origin,
    source: str,
    parent: Parent | None,
) -> PlannedRun:
    """The run where this call may go on with it."""
    check_origin(location, header, origin)
    mixed = check_identity(header, identity, allow_mixed=config.placement.allow_mixed)
    check_source(header, source)
    if parent is not None and header.parent is not None:
        check_parent(parent.location, parent.header, header.parent)
    return PlannedRun(header, tuple(mixed))


def package_versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the version of each package, `absent` where it is not installed."""
    return {name: _version(name) for name in packages}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
