"""The runs that `combine` makes one of: the new run has their images. They are only read.

`planned_run.py` pins them by the bytes of their last manifests, and `sessions` writes the tables of their shards anew.
"""

from __future__ import annotations

import itertools
from collections import Counter
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
    PlanEntry,
    RunHeader,
)
from pseudoris.store.runs.copied_pictures import (
    LEFT_OUT_NAME,
    LeftOutImages,
    NearHashes,
    Picture,
    Unique,
    pictures_of,
)
from pseudoris.store.runs.header import read_header, require_header
from pseudoris.store.runs.held_out_pictures import HoldOut, Splits, split_images, split_record
from pseudoris.store.runs.parents import DerivedShard, Parent, packed
from pseudoris.store.runs.plan import iter_plan, write_plan
from pseudoris.store.runs.receipts import RootDigest, list_receipts
from pseudoris.store.tables.image_bytes import PlannedImages
from pseudoris.store.tables.open_run import CommittedShard


@dataclass(frozen=True)
class Combination:
    """The runs that `combine` takes, in order, each with its name, its pinned state and its root digest.

    `names` are the first folders of the new keys; "" where the keys stay. Runs of one name share no key. `moved` says
    where the images of each are now. `begun` is the header of a run that was begun so, `listed` its list of what is
    left out, if that is as the header says.
    """

    parents: tuple[Parent, ...]
    names: tuple[str, ...]
    pinned: tuple[ParentRun, ...]
    roots: tuple[str, ...]
    unique: Unique | None = None
    hold_out: HoldOut | None = None
    moved: tuple[Mapping[str, str], ...] = ()
    begun: RunHeader | None = None
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
        held = pinned_of(begun) if begun is not None and begun.origin == "combine" else []
        if begun is not None and len(held) == len(parents):
            with suppress(ConfigError):
                for parent, (pinned, _) in zip(parents, held, strict=True):
                    parent.check(pinned)
                pins, roots = zip(*held, strict=True)
                same = cls(parents, names, pins, roots, unique, hold_out, moved)
                if begun.identity.method != same.method:
                    return same
                listed = target.read_if_there(LEFT_OUT_NAME) if begun.left_out else None
                is_whole = listed and begun.left_out and sha256_hex(listed) == begun.left_out.sha256
                return replace(same, begun=begun, listed=listed if is_whole else None)
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
        left_out, splits = self.chosen
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
            "splits": None if splits is None else split_record(splits),
            **dict.fromkeys(("parent", "domain", "audits", "exclusions")),
        }

    def derived(self, header: RunHeader) -> Iterator[DerivedShard]:
        """Yield the shards of the combined run of `header`, each with the receipt of the shard that it is made from."""
        numbers, (left_out, splits) = itertools.count(), self.chosen
        num_left = Counter((image.run, image.shard) for image in left_out.rows)
        for at, (pinned, _) in enumerate(pinned_of(header)):
            parent, name = self.parents[at], self.names[at]
            of_images = None if splits is None else splits.get(at, {})
            for receipt in parent.receipts(pinned):
                if num_left[at, receipt.shard] < receipt.counts.images:
                    yield DerivedShard(next(numbers), parent, receipt, name, of_images)

    @cached_property
    def chosen(self) -> tuple[LeftOutImages, Splits | None]:
        """The images that are not taken, and the splits of all others; None if none are drawn and no run has any.

        Left out are those that the runs had left out, then their copies if they are asked for, then what no split may
        have; as the target lists them if it does. ConfigError if a list of a parent is lost, or if the target's is, or
        pictures are, and another comes out.
        """
        left_out, splits, begun = LeftOutImages(), None, self.begun
        has_splits = self.hold_out is not None or any(parent.header.splits for parent in self.parents)
        is_grouped = self.hold_out is not None and self.hold_out.group == "similar"
        unique = None if self.listed is not None else self.unique
        if self.listed is not None:
            left_out.add_list(self.listed)
        else:
            for at, parent in enumerate(self.parents):
                if parent.header.left_out is not None:
                    left_out.add_list(parent.left_out_list(), at, key_prefix(self.names[at]))
        if has_splits or unique is not None:
            is_hashed = is_grouped or self.unique == "similar"
            pictures = list(self._pictures(is_hashed=is_hashed, has_splits=has_splits))
            hashes = NearHashes(each.hash for each in pictures if each.hash is not None) if is_hashed else None
            if unique is not None:
                left_out.add_copies(pictures, hashes if unique == "similar" else None)
            elif is_grouped:
                left_out.num_unknown = sum(each.phash is None and not each.is_quarantined for each in pictures)
            if has_splits:
                splits = split_images(pictures, self.hold_out, hashes if is_grouped else None, left_out)
        is_other = (
            begun is not None and begun.splits is not None and (splits is None or split_record(splits) != begun.splits)
        )
        if is_other or (begun and begun.left_out and self.listed is None and left_out.file()[0] != begun.left_out):
            raise ConfigError(
                f"{LEFT_OUT_NAME} is lost, or pictures cannot be read as before, so that another list or other splits "
                "come out: put them back, or restore the list from a copy"
            )
        return left_out, splits

    def _pictures(self, *, is_hashed: bool, has_splits: bool) -> Iterator[Picture]:
        for at, (parent, pinned, moved) in enumerate(zip(self.parents, self.pinned, self.moved, strict=True)):
            images = PlannedImages(parent.location, parent.header, source=moved)
            shards = (CommittedShard(parent.location, receipt) for receipt in parent.receipts(pinned))
            prefix, reading = key_prefix(self.names[at]), images if is_hashed else None
            yield from pictures_of(shards, run=at, prefix=prefix, images=reading, has_splits=has_splits)

    def left_out_list(self) -> bytes:
        """Return the list of the images that are left out."""
        return self.chosen[0].file()[1]

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
        number, left = -1, self.chosen[0].keys
        for at, (parent, name) in enumerate(zip(self.parents, self.names, strict=True)):
            committed = {receipt.shard for receipt in parent.receipts(self.pinned[at])}
            ends = list(itertools.accumulate(each.num_shards for each in parent.header.runs))
            for shard, entries in iter_plan(parent.location, parent.header):
                taken = [(each, key) for each in entries if (at, key := f"{key_prefix(name)}{each.key}") not in left]
                if shard not in committed or not taken:
                    continue
                number += 1
                shards[at][min(sum(end <= shard for end in ends), len(ends) - 1)] += 1
                for position, (entry, key) in enumerate(taken):
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
