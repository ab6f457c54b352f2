"""Stores the exclusions of a run beside its plan, so that no later session needs the files they came from.

    _plan/g0001/exclusions-<first 8 hex digits of its sha256>.parquet     columns rule, value

Called by `interchange`, `pipeline` and `store`. The exclusions of a run are frozen as its plan is: a session without
`--exclude` keeps them, a session with others is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import pyarrow as pa
from pydantic import JsonValue

from pseudoris.files.key_order import file_of
from pseudoris.files.location import RunLocation
from pseudoris.files.parquet_files import open_parquet
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.ids import image_id
from pseudoris.schemas.run_records import PLAN_FOLDER, RunHeader
from pseudoris.store.exclusion_rules import (
    ExclusionMatcher,
    ExclusionRecord,
    ExclusionRule,
    Exclusions,
    ListingCounts,
    exclusions_of,
    missing_phrase,
    planned_rules,
    with_counts,
)
from pseudoris.store.runs.plan import put_plan_file
from pseudoris.store.sources.items import SourceItem
from pseudoris.store.tables.parts import read_whole

_MATCHING: Final = "A listed name is the whole name of a file, a listed path the end of its path"
_SCHEMA: Final = pa.schema([("rule", pa.int32()), ("value", pa.string())])

# The last matcher is kept, by the digest of its part, because a process reads many shards of the same run.
_MATCHERS: Final[dict[str, ExclusionMatcher]] = {}


class ExcludedItems:
    """Leaves out the items of a listing that a rule by name excludes, and counts them.

    `num_excluded` holds the images left out by number of the rule, None for a rule by content; complete when the
    listing ends.
    """

    def __init__(self, exclusions: Exclusions) -> None:
        self._matcher = ExclusionMatcher(exclusions)
        self._rules = exclusions
        self.num_excluded: list[int | None] = [0 if rule.is_by_name else None for rule in exclusions]
        self._wanted: set[int] = set()
        self._is_complete = False

    @property
    def total(self) -> int:
        """Images left out."""
        return sum(count or 0 for count in self.num_excluded)

    def counts(self) -> ListingCounts:
        """Return the counts of the listing so far."""
        only = next((rule for rule in self._rules if rule.kind == "only"), None)
        num_absent = only.num_values - len(self._wanted) if only is not None and self._is_complete else None
        return ListingCounts(num_excluded=tuple(self.num_excluded), num_absent=num_absent)

    def notices(self) -> list[str]:
        """Return what the user should know about each rule, once the listing has ended."""
        return [_notice(rule) for rule in with_counts(self._rules, self.counts())]

    def check_left(self, num_left: int) -> None:
        """Accept a listing of which `num_left` images are left; ConfigError if rules leave out all of it."""
        if self.total and not num_left:
            options = ", ".join(dict.fromkeys(rule.option for rule in self._rules))
            raise ConfigError(
                f"all {self.total:,} listed images are left out by {options}: there is nothing to plan. {_MATCHING}. "
                "Correct the option, or give another SOURCE"
            )

    def written(self, location: RunLocation) -> dict[str, JsonValue] | None:
        """Write the values, and return the section `exclusions` of a header; None without a rule."""
        if not self._rules:
            return None
        rows = [(number, value) for number, rule in enumerate(self._rules) for value in sorted(rule.values)]
        table = pa.table([list(column) for column in zip(*rows, strict=True)], schema=_SCHEMA)
        part = put_plan_file(location, "g0001/exclusions", [table])
        return ExclusionRecord(rules=with_counts(self._rules, self.counts()), part=part).model_dump(mode="json")

    def kept(self, items: Iterable[SourceItem]) -> Iterator[SourceItem]:
        """Yield the other items, in their order; an image that is listed several times counts once."""
        if not self._matcher.has_names:
            yield from items
            return
        # Only items of the same file can repeat, and they follow one another, so `seen` holds the ids of one file.
        file, seen = "", set[str]()
        for item in items:
            number, wanted = self._matcher.matched(item.key)
            self._wanted.update(wanted)
            if number is None:
                yield item
                continue
            if file_of(item.key) != file:
                file, seen = file_of(item.key), set()
            name = image_id(item.key)
            if name not in seen:
                seen.add(name)
                self.num_excluded[number] = (self.num_excluded[number] or 0) + 1
        self._is_complete = True


def stored_exclusions(location: RunLocation, header: RunHeader) -> Exclusions:
    """Return the rules of the run with their values, () if it has none; ConfigError if their file is not intact."""
    record = exclusions_of(header)
    if record is None:
        return ()
    data = read_whole(location, PLAN_FOLDER, record.part)
    table = open_parquet(pa.BufferReader(data), record.part.name).read(use_threads=False)
    values: list[set[str]] = [set() for _ in record.rules]
    for number, value in zip(table["rule"].to_pylist(), table["value"].to_pylist(), strict=True):
        values[number].add(value)
    pairs = zip(record.rules, values, strict=True)
    return tuple(rule.model_copy(update={"values": frozenset(held)}) for rule, held in pairs)


def content_matcher(location: RunLocation, header: RunHeader) -> ExclusionMatcher | None:
    """Return the matcher of the run's rules by content, None if it has none. Raises as `stored_exclusions`."""
    record = exclusions_of(header)
    if record is None or all(rule.is_by_name for rule in record.rules):
        return None
    digest = record.part.sha256
    if digest not in _MATCHERS:
        # Only rules by content are loaded, because rules by name have already removed their images from the plan.
        by_content = tuple(rule for rule in stored_exclusions(location, header) if not rule.is_by_name)
        _MATCHERS.clear()
        _MATCHERS[digest] = ExclusionMatcher(by_content)
    return _MATCHERS[digest]


def check_exclusions(header: RunHeader, given: Exclusions) -> None:
    """Accept what a session of the run of `header` excludes: nothing of its own, or the run's own rules in any order.

    Otherwise raise ConfigError, with a line for each rule that differs.
    """
    ours = {rule.identity: rule for rule in planned_rules(header)}
    theirs = {rule.identity: rule for rule in given}
    if not given or ours.keys() == theirs.keys():
        return
    lines = [f"  {ours[each].option}: {each} in the run, absent now" for each in ours.keys() - theirs.keys()]
    lines += [f"  {theirs[each].option}: absent in the run, {each} now" for each in theirs.keys() - ours.keys()]
    raise ConfigError(
        "this output holds a run that excludes other images:\n"
        + "\n".join(sorted(lines))
        + "\nThe plan of a run is frozen. Leave --exclude and --only out to keep its rules, or name another output"
    )


def exclusion_notices(header: RunHeader, *, is_new: bool, is_given: bool) -> list[str]:
    """Return what the user should know about the run's rules, a sentence each.

    `is_new` says that the run was just planned, `is_given` that this session names exclusions.
    """
    rules = planned_rules(header)
    if is_new:
        missing = missing_phrase(rules)
        return [*map(_notice, rules), *([missing] if missing else [])]
    options = ", ".join(dict.fromkeys(rule.option for rule in rules))
    return [f"the run keeps to {options}, as it was planned"] if rules and not is_given else []


def _notice(rule: ExclusionRule) -> str:
    if rule.kind == "only":
        absent = f"; {rule.absent_phrase(rule.num_absent, 'SOURCE')}" if rule.num_absent else ""
        return f"{rule.option} leaves out {rule.num_excluded:,} listed images that it does not name{absent}"
    if rule.num_excluded is None:
        what = "sha256" if rule.kind == "sha256" else f"perceptual hash (distance {rule.settings.get('max_distance')})"
        return f"{rule.name}: images whose {what} is among its {rule.num_values:,} are quarantined as excluded"
    if rule.num_excluded == 0:
        return (
            f"{rule.title} excludes none of the listed images. {_MATCHING}. Renamed copies are found by content: give "
            "a folder of images, or their hashes"
        )
    return f"{rule.title} excludes {rule.num_excluded:,} of the listed images: they are not planned"
