"""The runs that another run is made from: one, whose plan it has, or several, whose images it has. They are only read.

`planned_run.py` pins them by the bytes of their last manifests, and `sessions` writes the tables of their shards anew.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

from pseudoris.files.key_order import path_key
from pseudoris.files.location import RunLocation
from pseudoris.images.perceptual_hash import perceptual_hash
from pseudoris.images.pixels import decode_upright
from pseudoris.primitives.errors import ConfigError, ImageError
from pseudoris.primitives.uris import NO_FIELDS, RECORDED, masked
from pseudoris.schemas.ids import image_id, sha256_hex
from pseudoris.schemas.run_records import (
    PLAN_FOLDER,
    CombinedRun,
    ParentRun,
    PartRecord,
    PlanEntry,
    Receipt,
    RunHeader,
)
from pseudoris.schemas.tables import IMAGES, STATUS_QUARANTINED
from pseudoris.store.exclusion_rules import plan_files
from pseudoris.store.runs.copied_pictures import LEFT_OUT_NAME, LeftOutImages, Picture, Unique
from pseudoris.store.runs.header import held_texts, read_header, require_header
from pseudoris.store.runs.manifest import (
    cached_receipts,
    latest_snapshot,
    read_snapshot,
    snapshot_path,
    snapshot_sha256,
)
from pseudoris.store.runs.plan import iter_plan, write_plan
from pseudoris.store.runs.receipts import RootDigest, list_receipts, of_this_run, part_path
from pseudoris.store.tables.image_bytes import PlannedImages
from pseudoris.store.tables.parts import read_selected, read_whole

logger = logging.getLogger(__name__)


class DerivedShard(NamedTuple):
    """A shard of a run that is made out of a parent's: its number, and the receipt of the parent's shard.

    `name` is what `combine` writes before the keys.
    """

    number: int
    parent: Parent
    receipt: Receipt
    name: str = ""


@dataclass(frozen=True, slots=True)
class Parent:
    """A run that another run is made from; it is only read."""

    location: RunLocation
    header: RunHeader

    @classmethod
    def open(cls, location: RunLocation, target: RunLocation, allowed: Collection[str] = NO_FIELDS) -> Self:
        """Open the run at `location`, from which the run at `target` is made; one must not contain the other.

        A run of 0.5.0 may hold secrets. They are left out, unless `target` holds them already or they are queries of
        `allowed` names. ConfigError if there is no run.
        """
        if location.holds(target) or target.holds(location):
            raise ConfigError(
                f"the new run at {target.root} would be inside its parent {location.root}, or contain it: name another "
                "output"
            )
        own = require_header(location)
        kept = {*allowed, *own.config.source.allowed_query, *held_texts(read_header(target))}
        tree = own.model_dump(mode="json", include={"source", "config", "identity"})
        if (clean := masked(tree, kept)) == tree:
            return cls(location, own)
        logger.warning(
            "The header of %s holds a secret, or a query that may be one, which the new run does not get. Where a "
            "command reads its images, name their place (--source).",
            location.root,
        )
        masked_one = RunHeader.model_validate(own.model_dump(mode="json") | clean, context=RECORDED)
        return cls(location, masked_one.model_copy(update={"earlier": own.earlier}))

    def pin(self, *, is_partial: bool = False) -> ParentRun:
        """Return the present state of the run, pinned: the child never reads what a later retry puts there.

        ConfigError if it is not complete, unless `is_partial`, or its last manifest lacks commits; TransientError if
        that cannot be read.
        """
        location, header = self.location, self.header
        latest = list_receipts(location)
        if latest and is_partial and len(latest) < header.num_shards:
            pinned = ParentRun(
                location=location.root,
                created_utc=header.created_utc,
                manifest=0,
                manifest_sha256=sha256_hex(b""),
                commits=_packed(latest.items()),
            )
            return pinned.model_copy(update={"manifest_sha256": self._digest(pinned)})
        if len(latest) < header.num_shards:
            raise ConfigError(
                f"{location.root} is not complete, {len(latest):,} of {header.num_shards:,} shards are committed: "
                f"run the `{header.origin}` command that started it again to finish it"
            )
        number = latest_snapshot(location)
        held = iter(()) if number is None else of_this_run(location, read_snapshot(location, number))
        listed = {each.shard: each.generation for each in held}
        if number is None or listed != latest:
            raise ConfigError(
                f"the last manifest of {location.root} lacks some commits: run the `{header.origin}` command that "
                "started it again; that writes a new manifest"
            )
        return ParentRun(
            location=location.root,
            created_utc=header.created_utc,
            manifest=number,
            manifest_sha256=snapshot_sha256(location, number),
        )

    def check(self, pinned: ParentRun) -> None:
        """Accept this run if it is the one that `pinned` names, even if it was moved; otherwise raise ConfigError."""
        location, header = self.location, self.header
        differs = f"the first was created at {pinned.created_utc}, the second at {header.created_utc}"
        if header.created_utc == pinned.created_utc:
            digest = "none"
            with suppress(FileNotFoundError):
                digest = self._digest(pinned)
            if digest == pinned.manifest_sha256:
                return
            what = "the text of its digests" if pinned.commits else snapshot_path(pinned.manifest)
            differs = f"{what} has sha256 {pinned.manifest_sha256} in the first, {digest} in the second"
        raise ConfigError(
            f"this output was made from the run {pinned.location}, not from {location.root}: {differs}. Give the first "
            "run to continue, or name another output"
        )

    def receipts(self, pinned: ParentRun) -> Iterator[Receipt]:
        """Yield the receipts of this run at the time it was pinned. Raises as `read_snapshot`."""
        if not pinned.commits:
            return read_snapshot(self.location, pinned.manifest)
        commits = ((shard, at) for first, num, at in pinned.commits for shard in range(first, first + num))
        return cached_receipts(self.location, commits=commits, header=self.header)

    def _digest(self, pinned: ParentRun) -> str:
        if not pinned.commits:
            return snapshot_sha256(self.location, pinned.manifest)
        return sha256_hex("".join(receipt.digest for receipt in self.receipts(pinned)).encode())

    def read_part(self, table: str, part: PartRecord) -> bytes:
        """Return the bytes of a part, checked against its receipt; ConfigError if it is missing or damaged."""
        again = "to start again from the parent as it is now, name another output"
        return read_whole(self.location, table, part, replaced=again)

    def derived(self, header: RunHeader) -> Iterator[DerivedShard]:
        """Yield the shards of the run of `header`, which has this run's plan, each with this run's receipt."""
        if header.parent is None:
            raise ValueError("the run was planned without a parent")
        return (DerivedShard(each.shard, self, each) for each in self.receipts(header.parent))

    def check_header(self, location: RunLocation, header: RunHeader) -> None:
        """Accept the run of `header` at `location` if it was made from this one; raises as `check`."""
        if header.parent is None:
            raise ConfigError(f"the header of {location.root} names no parent: it was edited; name another output")
        self.check(header.parent)

    def plan_into(self, location: RunLocation) -> dict[str, Any]:
        """Copy plan and list of copies to the run at `location`; return the fields of its header that follow: none."""
        for part in plan_files(self.header):
            location.put_part(part_path(PLAN_FOLDER, part), self.read_part(PLAN_FOLDER, part))
        if self.header.left_out is not None:
            parent, lost = (
                self.location,
                "is missing. Run the `pseudoris combine` command of this run again with --repair",
            )
            if (left_out := parent.read_if_there(LEFT_OUT_NAME)) is None:
                raise ConfigError(f"{parent.uri(LEFT_OUT_NAME)} {lost}")
            location.replace(LEFT_OUT_NAME, left_out)
        return {}


def _packed(commits: Iterable[tuple[int, int]]) -> tuple[tuple[int, int, int], ...]:
    """Return (shard, generation) pairs, ordered by shard, as [first shard, number of shards, generation]."""
    runs: list[tuple[int, int, int]] = []
    for shard, generation in commits:
        first, num, at = runs[-1] if runs else (0, 0, -1)
        if (first + num, at) == (shard, generation):
            runs[-1] = (first, num + 1, at)
        else:
            runs.append((shard, 1, generation))
    return tuple(runs)


@dataclass(frozen=True)
class Combination:
    """The runs that `combine` takes, in order, each with its name, its pinned state and its root digest.

    `names` are the first folders of the new keys; "" where the keys stay. Runs of one name share no key.
    """

    parents: tuple[Parent, ...]
    names: tuple[str, ...]
    pinned: tuple[ParentRun, ...]
    roots: tuple[str, ...]
    unique: Unique | None = None
    listed: bytes | None = None

    @classmethod
    def open(
        cls,
        given: Sequence[tuple[str, RunLocation]],
        target: RunLocation,
        *,
        is_partial: bool = False,
        unique: Unique | None = None,
    ) -> Self:
        """Open runs by name and place; what the run at `target` has pinned of them counts, if it was begun from them.

        With `unique`, copies are left out.

        ConfigError if one is no run, is not complete (unless `is_partial`), or holds `target` or is in it.
        """
        places = [location.root for _, location in given]
        if twice := [place for number, place in enumerate(places) if place in places[:number]]:
            raise ConfigError(f"{twice[0]} is named twice: name each run once")
        parents = tuple(Parent.open(location, target) for _, location in given)
        names, begun = tuple(name for name, _ in given), read_header(target)
        held = () if begun is None or begun.origin != "combine" else pinned_of(begun)
        if len(held) == len(parents):
            with suppress(ConfigError):
                for parent, (pinned, _) in zip(parents, held, strict=True):
                    parent.check(pinned)
                pins = tuple(pinned for pinned, _ in held)
                listed = None if begun is None or begun.left_out is None else target.read_if_there(LEFT_OUT_NAME)
                if listed is not None and begun and begun.left_out and sha256_hex(listed) != begun.left_out.sha256:
                    listed = None
                return cls(parents, names, pins, tuple(root for _, root in held), unique, listed)
        pins = tuple(parent.pin(is_partial=is_partial) for parent in parents)
        # The header that lacks a secret has another digest than that of the run, which `verify` prints.
        digests = (
            RootDigest(require_header(parent.location), parent.receipts(pinned)).hexdigest()
            for parent, pinned in zip(parents, pins, strict=True)
        )
        return cls(parents, names, pins, tuple(digests), unique)

    @property
    def header(self) -> RunHeader:
        """The header that a new one is a copy of, but for the fields of `plan_into`: that of the first run."""
        return self.parents[0].header

    def check_header(self, location: RunLocation, header: RunHeader) -> None:
        """Accept the run of `header` at `location` if it was combined from these runs; otherwise raise ConfigError."""
        held = pinned_of(header)
        if len(held) != len(self.parents):
            raise ConfigError(
                f"{location.root} was combined from {len(held)} runs ({', '.join(each.location for each, _ in held)}), "
                f"not from {len(self.parents)}: name the same, or another output"
            )
        for parent, (pinned, _) in zip(self.parents, held, strict=True):
            parent.check(pinned)

    def plan_into(self, location: RunLocation) -> dict[str, Any]:
        """Write the plan of all to the run at `location`; return the fields of its header that follow."""
        runs, tally = [self._runs_of(at) for at in range(len(self.parents))], itertools.count()
        shards = [[0] * len(each) for each in runs]
        left_out = self.left_out
        parts = write_plan(location, self._entries(shards, tally))
        record, data = left_out.file()
        if self.unique:
            location.replace(LEFT_OUT_NAME, data)
        counted = (
            each.model_copy(update={"num_shards": num})
            for group, nums in zip(runs, shards, strict=True)
            for each, num in zip(group, nums, strict=True)
        )
        headers = [parent.header for parent in self.parents]
        return {
            "plan_parts": parts,
            "num_images": next(tally),
            "num_repeated": sum(each.num_repeated for each in headers),
            "num_shards": sum(map(sum, shards)),
            "max_shard_bytes": max(each.max_shard_bytes for each in headers),
            "combined": tuple(counted),
            "left_out": record if self.unique else None,
            **dict.fromkeys(("parent", "domain", "audits", "exclusions")),
        }

    def derived(self, header: RunHeader) -> Iterator[DerivedShard]:
        """Yield the shards of the combined run of `header`, each with the receipt of the shard that it is made from."""
        numbers, left = itertools.count(), self.left_out.in_shards
        for at, (pinned, _) in enumerate(pinned_of(header)):
            parent, name = self.parents[at], self.names[at]
            for receipt in parent.receipts(pinned):
                if left[at, receipt.shard] == receipt.counts.images:
                    continue
                yield DerivedShard(next(numbers), parent, receipt, name)

    @cached_property
    def left_out(self) -> LeftOutImages:
        """The copies in the pinned runs, as the target lists them if it does; none unless copies are left out."""
        prefixes = [_prefix(name) for name in self.names]
        if self.unique is None:
            return LeftOutImages()
        if self.listed is not None:
            return LeftOutImages.listed(self.listed, prefixes)
        runs = zip(self.parents, self.pinned, strict=True)
        pictures = (_pictures(at, *run, self.unique) for at, run in enumerate(runs))
        return LeftOutImages.of(itertools.chain.from_iterable(pictures), prefixes, self.unique)

    def changed(self) -> Iterator[str]:
        """Yield the place of each run that has other receipts now than when it was pinned."""
        for parent, pinned in zip(self.parents, self.pinned, strict=True):
            now = _packed(list_receipts(parent.location).items())
            if now != (pinned.commits or _packed((each.shard, each.generation) for each in parent.receipts(pinned))):
                yield parent.location.root

    def _runs_of(self, at: int) -> list[CombinedRun]:
        """Return the runs of a parent, itself or those that it was combined from, with no shards yet."""
        own, parent = self.names[at], self.parents[at]
        kept = {name for name in CombinedRun.model_fields if name in RunHeader.model_fields}
        return [
            CombinedRun(
                **{name: getattr(each, name) for name in kept}
                | {"name": "/".join(filter(None, (own, each.name))), "num_shards": 0},
                run=self.pinned[at],
                root=self.roots[at],
            )
            for each in parent.header.runs
        ]

    def _entries(self, shards: list[list[int]], tally: Iterator[int]) -> Iterator[PlanEntry]:
        """Yield the plan of all runs; count the shards of each parent's runs in `shards`, the images in `tally`."""
        seen: dict[str, dict[int, int]] = {name: {} for name in self.names if self.names.count(name) > 1}
        number, left = -1, self.left_out.ids
        for at, (parent, name) in enumerate(zip(self.parents, self.names, strict=True)):
            committed = {receipt.shard for receipt in parent.receipts(self.pinned[at])}
            ends = list(itertools.accumulate(each.num_shards for each in parent.header.runs))
            for shard, entries in iter_plan(parent.location, parent.header):
                entries = [each for each in entries if each.image_id not in left[at]]
                if shard not in committed or not entries:
                    continue
                number += 1
                shards[at][min(sum(end <= shard for end in ends), len(ends) - 1)] += 1
                for position, entry in enumerate(entries):
                    key = f"{_prefix(name)}{entry.key}"
                    named = image_id(key) if name else entry.image_id
                    if name in seen and (first := seen[name].setdefault(int(named, 16), at)) != at:
                        one, other = (self.parents[each].location.root for each in (first, at))
                        raise ConfigError(
                            f"both {one} and {other} have an image {entry.key}, and one name, {name!r}: give them two "
                            "names, NAME=RUN each"
                        )
                    next(tally)
                    yield replace(entry, shard=number, position=position, key=key, image_id=named)


def _pictures(at: int, parent: Parent, pinned: ParentRun, unique: Unique) -> Iterator[Picture]:
    """Yield the images of a run; where their table has no hash that is asked for, they are read and decoded."""
    location, images = parent.location, PlannedImages(parent.location, parent.header)
    columns = ["key", "status", "sha256", "phash", "picture", "picture_sha256", "picture_phash"]
    for receipt in parent.receipts(pinned):
        name, limits = receipt.parts[IMAGES].name, parent.header.of_shard(receipt.shard).config.images
        rows = read_selected(location, IMAGES, name, columns).to_pylist()
        phashes = {row["key"]: row["picture_phash"] or row["phash"] for row in rows}
        lacking = [row for row in rows if row["status"] != STATUS_QUARANTINED and phashes[row["key"]] is None]
        if unique == "similar" and lacking:
            data = read_selected(location, IMAGES, name, ["key", "bytes"]).to_pylist()
            held = {row["key"]: row["bytes"] for row in data}
            wanted = [(row["key"], row["sha256"], held[row["key"]]) for row in lacking]
            for row, outcome in zip(lacking, images.outcomes(receipt.shard, wanted), strict=True):
                with suppress(ImageError):
                    if not isinstance(outcome, ImageError):
                        phashes[row["key"]] = perceptual_hash(decode_upright(outcome, limits))
        for row in rows:
            picture, sha256 = row["picture"] or row["key"], row["picture_sha256"] or row["sha256"]
            is_quarantined = row["status"] == STATUS_QUARANTINED
            yield Picture(row["key"], at, receipt.shard, picture, sha256, phashes[row["key"]], is_quarantined)


def _prefix(name: str) -> str:
    return f"{path_key(name)}/" if name else ""


def pinned_of(header: RunHeader) -> list[tuple[ParentRun, str]]:
    """Return the runs that `combine` was given for a run, with their root digests, in order."""
    return list(dict.fromkeys((each.run, each.root) for each in header.combined))
