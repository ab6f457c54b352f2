"""Proves that each planned image counts once and no file is damaged. For `cli`, `pipeline`, users (`VerifyReport`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import numpy.typing as npt

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.threads import map_in_threads
from pseudoris.schemas.ids import image_id
from pseudoris.schemas.keep_rule import KeepRule
from pseudoris.schemas.run_records import PLAN_FOLDER, RECEIPTS_FOLDER, PlanEntry, Receipt, RunHeader
from pseudoris.store.checks.content import Problem, examples
from pseudoris.store.checks.records import Manifests, card_notices, junk_notices, replaced_receipt_problems
from pseudoris.store.checks.shard_parts import verify_shard
from pseudoris.store.runs.copied_pictures import read_left_out
from pseudoris.store.runs.garbage import NamedParts, stray_files
from pseudoris.store.runs.header import EXTENSION_NAME, require_header
from pseudoris.store.runs.plan import iter_plan_part, shards_of_parts
from pseudoris.store.runs.receipts import (
    READERS,
    RootDigest,
    commit_of_name,
    foreign_receipt,
    list_commits,
    spread_evenly,
    try_read_receipt,
)
from pseudoris.store.runs.stored_exclusions import stored_exclusions
from pseudoris.store.tables.judged_expressions import SOME_TAU, rule_of
from pseudoris.store.tables.parts import REPAIRED, remedy

__all__ = ["OutsideBytes", "Problem", "VerifyReport", "verify_run", "verify_shard"]


@dataclass(frozen=True, slots=True)
class OutsideBytes:
    """Shards whose bytes may differ from those of another run, for one reason. This is allowed: they are not damaged.

    Attributes:
        what: `degraded`, with the setting and its lowered value in `detail`, or `mixed`, with the difference.
        shards: (first, last) of each range of consecutive shards, ascending.
    """

    what: str
    detail: str
    shards: tuple[tuple[int, int], ...]

    @property
    def num_shards(self) -> int:
        """Number of shards in all ranges."""
        return sum(last - first + 1 for first, last in self.shards)


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was checked, and the problems found.

    Attributes:
        num_images: Planned images.
        num_accounted: Images that the receipts of planned shards count: annotated + empty + quarantined.
        num_checked: Of the planned shards, how many had their parts checked.
        root: The run's root digest over the shards committed so far; None if a receipt cannot be used.
        notices: What a person may have changed, and files among the records that no reader uses. They are not problems.
    """

    num_images: int
    num_accounted: int
    annotated: int
    empty: int
    quarantined: int
    num_shards: int
    num_checked: int
    problems: tuple[Problem, ...]
    outside: tuple[OutsideBytes, ...] = ()
    root: str | None = None
    notices: tuple[str, ...] = ()

    @property
    def is_clean(self) -> bool:
        """Whether there are no problems and every planned image is accounted for."""
        return not self.problems and self.num_accounted == self.num_images


# A planned shard is its number and its entries by position; None if their part of the plan is lost.
_Planned = tuple[int, list[PlanEntry] | None]


class VerifyWalk:
    """The sums and problems of one pass over the plan; receipts are listed once."""

    def __init__(self, location: RunLocation, header: RunHeader, sample: int | None) -> None:
        commits = sorted((shard, generation) for shard, generation, _ in list_commits(location))
        # Commits are sorted, so the last one of each shard, its latest generation, stays in the dict.
        committed = dict(commits)
        replaced = [each for each in commits if each[1] < committed[each[0]]]
        self.num_shards = 0
        self._location = location
        self._header = header
        # Holds the problem of each shard whose receipt cannot exist, because a folder or a pipe has its name.
        self._blocked: dict[int, Problem] = {}
        for name, what in location.list_obstacles(RECEIPTS_FOLDER):
            if commit := commit_of_name(name):
                found = f"{RECEIPTS_FOLDER}/{name} is {what}, not a receipt"
                detail = f"{found}: move it out, then run the same command again"
                self._blocked[commit[0]] = Problem(commit[0], "receipt", detail)
        self._root: RootDigest | None = RootDigest(header)
        self._is_plan_whole = True
        self._manifests = Manifests(location)
        self._chosen = spread_evenly(list(committed), sample)
        self._committed = committed
        self._unplanned = dict(committed)
        self._named = NamedParts(committed)
        self._num_read = 0
        self._missing: list[int] = []
        self._problems: list[Problem] = [*self._blocked.values(), *self._manifests.problems]
        self._problems += replaced_receipt_problems(location, replaced, header.digests)
        self._ids: list[npt.NDArray[np.uint64]] = [np.array([], np.uint64)]
        self._status = {"annotated": 0, "empty": 0, "quarantined": 0}
        self._num_checked = 0
        self._outside: dict[tuple[str, str], list[int]] = {}

    def shards(self, progress: Callable[[int, int], None] | None) -> Iterator[ShardToCheck]:
        """Go through the plan once, account for each planned shard, and yield those whose parts are to be checked."""

        def planned() -> Iterator[_Planned]:
            for record, shards in shards_of_parts(self._header):
                try:
                    yield from iter_plan_part(self._location, record)
                except ConfigError as error:
                    self._is_plan_whole = False
                    self._problems.append(Problem(None, "plan_part", str(error)))
                    yield from ((shard, None) for shard in shards)

        def read(wanted: _Planned) -> tuple[_Planned, Receipt | ConfigError | None]:
            # `pop` returns a receipt only once, so a shard that is planned twice is not counted twice.
            generation = self._unplanned.pop(wanted[0], None)
            return wanted, None if generation is None else try_read_receipt(self._location, wanted[0], generation)

        for (shard, entries), found in map_in_threads(read, planned(), READERS):
            self.num_shards += 1
            receipt = self._visit(shard, entries, found)
            if receipt is not None:
                yield ShardToCheck(receipt, entries, rule_of(self._header.of_shard(shard)))
            if progress is not None:
                progress(self.num_shards, self._header.num_shards)

    def _visit(
        self, shard: int, entries: list[PlanEntry] | None, receipt: Receipt | ConfigError | None
    ) -> Receipt | None:
        """Account for one planned shard. Return its receipt if its parts are to be checked."""
        if entries is not None:
            self._ids.append(np.array([int(entry.image_id, 16) for entry in entries], np.uint64))
            forged = (each for each in entries if each.image_id != image_id(each.key))
            details = (f"{each.key} has id {each.image_id}, not the hash of its key" for each in forged)
            self._problems += examples(shard, "plan_id", details)
        if isinstance(receipt, Receipt) and receipt.header_sha256 not in self._header.digests:
            receipt = ConfigError(foreign_receipt(self._location, shard, receipt.generation))
        if isinstance(receipt, ConfigError):
            self._problems.append(Problem(shard, "receipt", str(receipt)))
            self._root = None
            return None
        if receipt is None:
            self._missing += [] if shard in self._blocked else [shard]
            return None
        self._num_read += 1
        self._named.add(receipt)
        self._problems += self._manifests.compare(receipt)
        if self._root is not None:
            self._root.add(receipt)
        if entries is not None and receipt.counts.images != len(entries):
            detail = f"the receipt accounts for {receipt.counts.images} images, the plan has {len(entries)}"
            self._problems.append(Problem(shard, "ids", detail))
        reasons = [("degraded", f"{name}: {value!r}") for name, value in receipt.degraded.items()]
        for reason in (*reasons, *(("mixed", line) for line in receipt.mixed)):
            self._outside.setdefault(reason, []).append(shard)
        for status in self._status:
            self._status[status] += getattr(receipt.counts, status)
        if shard not in self._chosen:
            return None
        self._num_checked += 1
        return receipt

    def add(self, problems: Iterable[Problem]) -> None:
        """Add the problems that were found in a shard's parts, with the remedy of those that a repair ends."""
        for each in problems:
            if each.what in REPAIRED:
                each = replace(each, detail=f"{each.detail}. {remedy(self._header)}")
            self._problems.append(each)

    def report(self, expected_root: str | None, *, quick: bool) -> VerifyReport:
        """Return the report, with the problems that show only at the end; `quick` as of `verify_run`."""
        root = None if self._root is None else self._root.hexdigest()
        # Problems arrive in any order, so they are sorted: equal runs give equal reports.
        self._problems.sort(key=lambda problem: -1 if problem.shard is None else problem.shard)
        # All ids are held in memory, because they take only 8 bytes per image: 400 MB for 50 million images.
        values, counts = np.unique(ids := np.concatenate(self._ids), return_counts=True)
        repeated = zip(values[counts > 1], counts[counts > 1], strict=True)
        details = (f"image {value:016x} is planned {number} times" for value, number in repeated)
        self._problems += examples(None, "plan_repeated", details)
        due = (self._header.num_images, self._header.num_shards)
        if self._is_plan_whole and (ids.size, self.num_shards) != due:
            said = f"the header says {due[0]} images in {due[1]} shards"
            detail = f"{said}, the plan holds {ids.size} in {self.num_shards}"
            self._problems.append(Problem(None, "plan_counts", detail))
        for first, last in _ranges(self._missing):
            missing = f"shard {first} has" if first == last else f"shards {first} to {last} have"
            detail = f"{missing} no receipt: run the `pseudoris {self._header.origin}` command of this run again"
            self._problems.append(Problem(first, "not_committed", detail))
        unplanned = (f"shard {shard} has a receipt, but is not in the plan" for shard in self._unplanned)
        self._problems += examples(None, "unplanned_receipt", unplanned)
        if not quick:
            # A part that no receipt names is no stray in an incomplete run: its shard may be in progress.
            is_whole = self._num_read == self.num_shards == len(self._committed)
            strays = stray_files(self._location, self._named, self._committed, is_whole=is_whole)
            self._problems += examples(None, "stray_file", strays)
        junk = () if quick else junk_notices(self._location, self._header)
        if expected_root not in (None, root):
            found = f"{root}, not {expected_root}" if root else "unknown, as a receipt cannot be used"
            detail = f"the root digest of the run is {found}: it is another run, or it was changed"
            self._problems.append(Problem(None, "root", detail))
        return VerifyReport(
            num_images=ids.size if self._is_plan_whole else self._header.num_images,
            num_accounted=sum(self._status.values()),
            **self._status,
            num_shards=self.num_shards,
            num_checked=self._num_checked,
            problems=tuple(self._problems),
            outside=tuple(OutsideBytes(*reason, tuple(_ranges(each))) for reason, each in self._outside.items()),
            root=root,
            notices=(*card_notices(self._location), *(each.detail for each in examples(None, "junk", junk))),
        )


def _ranges(shards: Iterable[int]) -> Iterator[tuple[int, int]]:
    for _, run in groupby(enumerate(shards), lambda pair: pair[1] - pair[0]):
        numbers = [shard for _, shard in run]
        yield numbers[0], numbers[-1]


@dataclass(frozen=True, slots=True)
class ShardToCheck:
    """A committed shard to check: its latest receipt, its plan entries by position, and the run's keep rule.

    Entries are None if their part of the plan is lost.
    """

    receipt: Receipt
    entries: list[PlanEntry] | None
    rule: KeepRule = SOME_TAU


# The function checks shards, in this process or on a cluster. It takes a shard when it can start one more.
CheckShards = Callable[[RunLocation, Iterator[ShardToCheck], bool], Iterator[list[Problem]]]


def check_shards(location: RunLocation, shards: Iterator[ShardToCheck], quick: bool) -> Iterator[list[Problem]]:
    """Yield the problems of each shard, checked one by one in this process. Raises as `verify_shard`."""
    for shard in shards:
        yield verify_shard(location, shard.receipt, shard.entries, quick=quick, rule=shard.rule)


def verify_run(
    location: RunLocation,
    *,
    quick: bool = False,
    sample: int | None = None,
    root: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    check: CheckShards = check_shards,
) -> VerifyReport:
    """Verify a whole run: header, plan, receipts, manifests, and the parts of all shards or of `sample` shards.

    Args:
        location: The run's folder.
        quick: As for `verify_shard`. The folders are not searched for unexpected files either.
        sample: Number of committed shards to check, spread evenly; None checks all, 0 checks none.
        root: The root digest that the run must have; another one is a problem.
        progress: Called after each planned shard with the number done and the total.
        check: Checks the parts; `pseudoris.pipeline.fan_out` has one for a cluster.

    Raises:
        ConfigError: No run was started there, or its header cannot be used.
    """
    header = require_header(location)
    for name, what in location.list_obstacles(PLAN_FOLDER):
        # Without this error, the plan would seem to end before an extension whose header is a folder or a pipe.
        if EXTENSION_NAME.match(name):
            raise ConfigError(
                f"{location.uri(f'{PLAN_FOLDER}/{name}')} is {what}, not a header of the plan: restore the file"
            )
    walk = VerifyWalk(location, header, sample)
    for named, read in (("left_out", read_left_out), ("exclusions", stored_exclusions)):
        try:
            read(location, header)
        except ConfigError as error:
            walk.add([Problem(None, named, str(error))])
    for problems in check(location, walk.shards(progress), quick):
        walk.add(problems)
    return walk.report(root, quick=quick)
