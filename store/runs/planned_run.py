"""Plans a run: the first session freezes the plan, later ones continue it. For all that write runs, and for `doctor`.

No shard may start before the header exists, and the header is created after the plan.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.audit_records import AuditRecord
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import config_hash
from pseudoris.schemas.ids import image_id
from pseudoris.schemas.run_records import HEADER_NAME, PLAN_FOLDER, CombinedRun, Identity, Origin, ParentRun, RunHeader
from pseudoris.store.exclusion_rules import Exclusions, plan_files
from pseudoris.store.runs.combination import Combination
from pseudoris.store.runs.extension import extend_plan, extension_notices
from pseudoris.store.runs.garbage import refuse_unexpected_files, remove_leftovers
from pseudoris.store.runs.header import (
    check_identity,
    check_origin,
    create_header,
    read_header,
    refuse_queries,
    require_header,
)
from pseudoris.store.runs.held_out_pictures import split_record
from pseudoris.store.runs.lock import RunLock, current_holder
from pseudoris.store.runs.manifest import has_results
from pseudoris.store.runs.moved_source import moved_plan
from pseudoris.store.runs.parents import Parent
from pseudoris.store.runs.plan import PlanTally, assign_shards, remove_moved, write_plan
from pseudoris.store.runs.receipts import part_path
from pseudoris.store.runs.stored_exclusions import ExcludedItems, check_exclusions, exclusion_notices
from pseudoris.store.sources import Source, SourceItem

logger = logging.getLogger(__name__)

ACCEPTED: Final = "not byte-reproducible (accepted by --allow-mixed): "
Lister = Callable[[], Iterable[SourceItem]]


@dataclass(frozen=True, slots=True)
class RunRequest:
    """The run that a command wants to start or to continue.

    Attributes:
        origin: The command that writes the tables.
        source: A `Source.name`, or the parent's location.
        identity: What must be equal for two sessions to belong to one run.
        config: The configuration of this session; its `shards` bound the shards.
        parent: The run, or runs, that this one is made from, if any.
        exclusions: Images to leave out of a new run; without a rule, an existing run keeps its own.
        audit: What chose the configuration, for the header of a new run that has the plan of `parent`.
        combined: What a new run's header says of the runs that its parent was combined from; as there by default.
        lock: Held on the run. With it, a run of this origin that has no receipt gives way to another request.
        splits: The split of each image of a new run by its key, "" for none; empty for a run without splits.
        limit: Plan only the first `limit` images. It does not change an existing plan, only its extension.
        is_extension: Extend an existing plan by the images that it lacks.
        moved: Where the SOURCE of an existing run is now; `source` is then the one of its header.
    """

    origin: Origin
    source: str
    identity: Identity
    config: RunConfig
    parent: Parent | Combination | None = None
    exclusions: Exclusions = ()
    audit: AuditRecord | None = None
    combined: tuple[CombinedRun, ...] = ()
    lock: RunLock | None = None
    splits: Mapping[str, str] = field(default_factory=dict)
    limit: int | None = None
    is_extension: bool = False
    moved: Source | None = None


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A run with a plan, ready for work: its header, and what the user must know before it begins, a sentence each.

    `mixed` holds the differences of identity that `allow_mixed` accepts. With `is_repair`, parts that are missing or
    damaged are written again. `worked` is the header for workers: if SOURCE has moved, its plan has the versions there.
    """

    header: RunHeader
    mixed: tuple[str, ...] = ()
    is_repair: bool = False
    notices: tuple[str, ...] = ()
    worked: RunHeader | None = None

    @property
    def parent(self) -> ParentRun:
        """The parent as it was when this run started; ValueError if the run has none."""
        if self.header.parent is None:
            raise ValueError("the run was planned without a parent")
        return self.header.parent


def plan_run(location: RunLocation, request: RunRequest, items: Lister | Parent | Combination) -> PlannedRun:
    """Return the run in `location`, ready for work. If there is none, plan it first.

    If this is killed before the header exists, the next session plans again. If another driver creates the header
    first, that one counts. `items` lists the images in the order of their keys, for a new plan or an extension alone.
    Or it is a parent, whose plan and SOURCE the run then has, whatever the request says; or several, of which it has
    the images, as `Combination` says.

    Raises:
        ConfigError: The listing raises it, or the existing run has another origin, parent, identity or source, or
            excludes other images. A new one: the location cannot be written, its table folders hold files, every image
            is excluded, or the parent is not complete.
    """
    if isinstance(items, Parent):
        before = items.header.config
        held = {"source": before.source, "images": before.images, "shards": before.shards}
        config = request.config.model_copy(update=held)
        request = replace(request, source=items.header.source, config=config, parent=items)
    elif isinstance(items, Combination):
        request = replace(request, parent=items)
    standing = _standing(location, request)
    if standing is None:
        header = _plan_anew(location, request, items)
        mixed = _check(location, header, request)
    else:
        header, mixed = standing
    notices = [f"{ACCEPTED}{'; '.join(mixed)}"] if mixed else []
    if header.identity.versions.get("triton") == "absent":
        notices.append(
            "plain torch attends on this GPU, slower than Triton's kernels: `pseudoris doctor` there says why"
        )
    notices += exclusion_notices(header, is_new=standing is None, is_given=bool(request.exclusions))
    worked, listed = header, None if isinstance(items, Parent | Combination) else items
    if (moved := request.moved) is not None:
        worked = moved_plan(location, header, (listed or moved.list)(), source=moved, config=request.config)
    if standing is not None and request.is_extension and listed is not None:
        try:
            extended, tally = extend_plan(location, worked, listed(), limit=request.limit)
        except BaseException:
            remove_moved(location)
            raise
        if tally.num_images:
            parts = worked.plan_parts + extended.plan_parts[len(header.plan_parts) :]
            header, worked = extended, extended.model_copy(update={"plan_parts": parts})
        notices += extension_notices(tally)
    elif standing is not None and request.limit not in (None, header.num_images):
        notices.append(
            f"the run already has a plan of {header.num_images} images; --limit {request.limit} does not change it"
        )
    return PlannedRun(header, mixed, request.config.placement.repair, tuple(notices), worked)


def _plan_anew(location: RunLocation, request: RunRequest, items: Lister | Parent | Combination) -> RunHeader:
    """Write the plan, then create the header."""
    # The parent is pinned first, so that an incomplete parent is reported before SOURCE is listed.
    pinned = request.parent.pin() if isinstance(request.parent, Parent) else None
    made: dict[str, Any] = {
        "source": request.source,
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "identity": request.identity,
        "config": request.config,
        "config_sha256": config_hash(request.config),
        "origin": request.origin,
        "parent": pinned,
        "audits": None if request.audit is None else request.audit.model_dump(mode="json"),
    }
    if request.combined:
        made["combined"] = request.combined
    if not isinstance(items, Combination):
        # Of several, each was asked when its own header was created.
        refuse_queries(request.config, request.source, items.header if isinstance(items, Parent) else None)
    refuse_unexpected_files(location)
    if isinstance(items, Parent | Combination):
        update = {**made, **items.plan_into(location), "earlier": frozenset()}
        return create_header(location, items.header.model_copy(update=update))
    tally, excluded = PlanTally(), ExcludedItems(request.exclusions)
    listed: Iterable[SourceItem] = excluded.kept(items())
    splits = None
    if request.splits:
        listed = [*listed]
        splits = split_record({0: {image_id(each.key): request.splits[each.key] for each in listed}})
    entries = itertools.islice(assign_shards(listed, request.config.shards, tally=tally), request.limit)
    parts = write_plan(location, entries)
    excluded.check_left(len(parts))
    header = RunHeader(
        **made,
        plan_parts=parts,
        num_images=tally.num_images,
        num_repeated=tally.num_repeated,
        num_shards=tally.num_shards,
        max_shard_bytes=tally.max_shard_bytes,
        exclusions=excluded.written(location),
        splits=splits,
    )
    return create_header(location, header)


def may_give_way(location: RunLocation, header: RunHeader, exclusions: Exclusions) -> bool:
    """Return whether the run of `header` has no receipt, and no living driver here; its lock tells of others.

    One that excludes images gives way only to `exclusions`, or its rules would be dropped in silence.
    """
    holder = current_holder(location)
    is_free = holder is None or not holder.is_here
    return is_free and not _loses_rules(header, exclusions) and not has_results(location)


def _loses_rules(header: RunHeader, exclusions: Exclusions) -> bool:
    return header.exclusions is not None and not exclusions


def _standing(location: RunLocation, request: RunRequest) -> tuple[RunHeader, tuple[str, ...]] | None:
    """Return header and accepted differences of the run in `location`; None if there is none, or if it gave way.

    It guards against a second driver, whatever was read before: under the lock no other driver plans or commits.
    """
    must_stand, lock = request.config.placement.repair or request.moved is not None, request.lock
    header = require_header(location) if must_stand else read_header(location)
    if header is not None:
        try:
            return header, _check(location, header, request)
        except ConfigError:
            is_other = header.origin != request.origin or _loses_rules(header, request.exclusions)
            if lock is None or must_stand or is_other:
                raise
            # The heartbeat raises an error if this driver has lost the lock, so no other driver commits meanwhile.
            lock.heartbeat()
            if has_results(location):
                raise
            # Before the run is lost: a new one may refuse the folder.
            refuse_unexpected_files(location)
            # The header is deleted first: a kill before this line keeps the old run, and a kill after it leaves no run.
            for path in (HEADER_NAME, *(part_path(PLAN_FOLDER, part) for part in plan_files(header))):
                location.delete(path)
            logger.warning("%s holds a run with other settings and no results: it is planned anew.", location.root)
    elif has_results(location):
        # Without a header, this call raises an error that says what to restore, so the results are never deleted.
        require_header(location)
    if lock is not None:
        remove_leftovers(location)
    return None


def _check(location: RunLocation, header: RunHeader, request: RunRequest) -> tuple[str, ...]:
    """Accept the run of `header` for `request`; return the accepted differences of identity."""
    check_origin(location, header, request.origin)
    if request.parent is not None:
        request.parent.check_header(location, header)
    elif header.parent is not None:
        raise ConfigError(f"{location.root} was begun from {header.parent.location}: name it again, or another output")
    check_exclusions(header, request.exclusions)
    preset, allow_mixed = request.config.preset, request.config.placement.allow_mixed
    return tuple(check_identity(header, request.identity, request.source, preset=preset, allow_mixed=allow_mixed))


def package_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the version of each package, `absent` if it is not installed."""
    found = {}
    for name in packages:
        # A container may lack packages that its plug-ins do not need, so the identity records "absent" for these.
        found[name] = "absent"
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
