"""The runs that `combine` makes one of: the new run has their images. They are only read.

`planned_run.py` pins them by the bytes of their last manifests, and `sessions` writes the tables of their shards anew.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

from pseudoris.files.key_order import key_prefix
from pseudoris.files.location import RunLocation
from pseudoris.files.named_places import places_by_run
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.ids import image_id, sha256_hex
from pseudoris.schemas.run_records import (
    CombinedRun,
    ParentRun,
    PartRecord,
    PlanEntry,
    RunHeader,
    SplitRecord,
)
from pseudoris.store.runs.copied_pictures import LEFT_OUT_NAME, LeftOutImages, NearHashes, Unique, pictures_of
from pseudoris.store.runs.header import read_header, require_header
from pseudoris.store.runs.held_out_pictures import HoldOut, SplitImages, split_images
from pseudoris.store.runs.parents import DerivedShard, Parent, packed
from pseudoris.store.runs.plan import iter_plan, write_plan
from pseudoris.store.runs.receipts import RootDigest, list_receipts


@dataclass(frozen=True)
class Combination:
    """The runs that `combine` takes, in order, each with its name, its pinned state and its root digest.

    `names` are the first folders of the new keys; "" where the keys stay. Runs of one name share no key. `moved` says
    where the images of each are now. `due`, `due_splits` and `listed` are of a run that was begun so: what its header
    says of the list of copies and of the splits, and the bytes of the list if they are that.
    """

    parents: tuple[Parent, ...]
    names: tuple[str, ...]
    pinned: tuple[ParentRun, ...]
    roots: tuple[str, ...]
    unique: Unique | None = None
    hold_out: HoldOut | None = None
    moved: tuple[Mapping[str, str], ...] = ()
    due: PartRecord | None = None
    due_splits: SplitRecord | None = None
    listed: bytes | None = None

    @classmethod
    def open(
        cls,
        given: Sequence[tuple[str, RunLocation]],
        target: RunLocation,
        *,
        is_partial: bool = False,
        unique: Unique | None = None,
        hold_out: HoldOut | None = None,
        source: str | Mapping[str, str] | None = None,
    ) -> Self:
        """Open runs by name and place; what the run at `target` has pinned of them counts, if it was begun from them.

        With `unique`, copies are left out, with `hold_out` splits are drawn; `source` says where the images are now.

        ConfigError if none is given, or one is no run, is not complete (unless `is_partial`), or holds `target` or is
        in it.
        """
        if not given:
            raise ConfigError("there is no run to combine: name one, or several")
        places = [location.root for _, location in given]
        if twice := [place for number, place in enumerate(places) if place in places[:number]]:
            raise ConfigError(f"{twice[0]} is named twice: name each run once")
        parents = tuple(Parent.open(location, target) for _, location in given)
        names, begun = tuple(name for name, _ in given), read_header(target)
        moved = places_by_run(names, source)
        held = () if begun is None or begun.origin != "combine" else pinned_of(begun)
        if len(held) == len(parents):
            with suppress(ConfigError):
                for parent, (pinned, _) in zip(parents, held, strict=True):
                    parent.check(pinned)
                pins = tuple(pinned for pinned, _ in held)
                same = cls(parents, names, pins, tuple(root for _, root in held), unique, hold_out, moved)
                if begun is None or begun.identity.method != same.method:
                    return same
                same = replace(same, due_splits=begun.splits)
                if begun.left_out is None:
                    return same
                listed = target.read_if_there(LEFT_OUT_NAME)
                is_whole = listed is not None and sha256_hex(listed) == begun.left_out.sha256
                return replace(same, due=begun.left_out, listed=listed if is_whole else None)
        pins = tuple(parent.pin(is_partial=is_partial) for parent in parents)
        # The header that lacks a secret has another digest than that of the run, which `verify` prints.
        digests = (
            RootDigest(require_header(parent.location), parent.receipts(pinned)).hexdigest()
            for parent, pinned in zip(parents, pins, strict=True)
        )
        return cls(parents, names, pins, tuple(digests), unique, hold_out, moved)

    @property
    def method(self) -> dict[str, Any]:
        """What decides the new run besides its parents."""
        named: list[Any] = [list(each) for each in zip(self.names, self.roots, strict=True)]
        asked = {"unique": self.unique, "hold_out": self.hold_out and self.hold_out.method}
        return {"combine": {"runs": named, **{name: each for name, each in asked.items() if each}}}

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
        left_out, splits = self.left_out, self.splits
        parts = write_plan(location, self._entries(shards, tally))
        record, data = left_out.file()
        is_listed = bool(self.unique or left_out.rows)
        if is_listed:
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
            "left_out": record if is_listed else None,
            "splits": splits and splits.record(left_out.ids),
            **dict.fromkeys(("parent", "domain", "audits", "exclusions")),
        }

    def derived(self, header: RunHeader) -> Iterator[DerivedShard]:
        """Yield the shards of the combined run of `header`, each with the receipt of the shard that it is made from."""
        numbers, left, splits = itertools.count(), self.left_out.in_shards, self.splits
        for at, (pinned, _) in enumerate(pinned_of(header)):
            parent, name = self.parents[at], self.names[at]
            for receipt in parent.receipts(pinned):
                if left[at, receipt.shard] == receipt.counts.images:
                    continue
                yield DerivedShard(next(numbers), parent, receipt, name, None if splits is None else splits.of_runs[at])

    @property
    def left_out(self) -> LeftOutImages:
        """What the pinned runs had left out, then their copies if they are asked for; as the target lists them if so.

        ConfigError if a list of a parent is lost, or that of the target is and its pictures give another.
        """
        return self._chosen[0]

    @property
    def splits(self) -> SplitImages | None:
        """The splits of the images; None if none are drawn and no run has any. ConfigError if others come out."""
        return self._chosen[1]

    @cached_property
    def _chosen(self) -> tuple[LeftOutImages, SplitImages | None]:
        """Return both of one pass over the pictures, which are not held."""
        found, splits = LeftOutImages([key_prefix(name) for name in self.names]), None
        has_splits = self.hold_out is not None or any(parent.header.splits for parent in self.parents)
        if self.listed is not None:
            found.add_list(self.listed)
        for at, parent in enumerate(self.parents):
            if self.listed is None and parent.header.left_out is not None:
                found.add_list(parent.left_out_list(), of_run=at)
        if has_splits or (self.unique is not None and self.listed is None):
            is_grouped = self.hold_out is not None and self.hold_out.group == "similar"
            runs = enumerate(zip(self.parents, self.pinned, self.moved, strict=True))
            is_hashed = is_grouped or self.unique == "similar"
            pictures = [
                picture
                for at, (parent, pinned, moved) in runs
                for picture in pictures_of(
                    at, parent.location, parent.header, parent.receipts(pinned), moved, is_hashed=is_hashed
                )
            ]
            hashes = NearHashes(each.hash for each in pictures if each.hash is not None) if is_hashed else None
            if self.unique is not None and self.listed is None:
                found.add_copies(pictures, hashes if self.unique == "similar" else None)
            elif is_grouped:
                found.num_unknown = sum(each.phash is None and not each.is_quarantined for each in pictures)
            if has_splits:
                splits = split_images(pictures, found.prefixes, self.hold_out, hashes if is_grouped else None)
                for image in splits.left_out:
                    found.add(image)
        is_same = self.due_splits is None or (splits and splits.record(found.ids)) == self.due_splits
        if not is_same or (self.listed is None and self.due is not None and found.file()[0] != self.due):
            raise ConfigError(
                f"{LEFT_OUT_NAME} is lost, or pictures cannot be read as before, so that another list or other splits "
                "come out: put them back, or restore the list from a copy"
            )
        return found, splits

    def left_out_list(self) -> bytes:
        """Return the list of the images that are left out."""
        return self.left_out.file()[1]

    def changed(self) -> Iterator[str]:
        """Yield the place of each run that has other receipts now than when it was pinned."""
        for parent, pinned in zip(self.parents, self.pinned, strict=True):
            now = packed(list_receipts(parent.location).items())
            if now != (pinned.commits or packed((each.shard, each.generation) for each in parent.receipts(pinned))):
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
                    key = f"{key_prefix(name)}{entry.key}"
                    named = image_id(key) if name else entry.image_id
                    if name in seen and (first := seen[name].setdefault(int(named, 16), at)) != at:
                        one, other = (self.parents[each].location.root for each in (first, at))
                        raise ConfigError(
                            f"both {one} and {other} have an image {entry.key}, and one name, {name!r}: give them two "
                            "names, NAME=RUN each"
                        )
                    next(tally)
                    yield replace(entry, shard=number, position=position, key=key, image_id=named)


def pinned_of(header: RunHeader) -> list[tuple[ParentRun, str]]:
    """Return the runs that `combine` was given for a run, with their root digests, in order."""
    return list(dict.fromkeys((each.run, each.root) for each in header.combined))
