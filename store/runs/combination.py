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
from typing import Any, NamedTuple, Self

from pseudoris.files.key_order import key_prefix
from pseudoris.files.location import RunLocation, resolved
from pseudoris.files.named_places import places_by_run
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.ids import image_id
from pseudoris.schemas.run_records import CombinedRun, ParentRun, PlanEntry, Receipt, RunHeader
from pseudoris.store.runs.copied_pictures import (
    LEFT_OUT_NAME,
    LeftOutImages,
    Picture,
    Unique,
    pictures_of,
    read_left_out,
)
from pseudoris.store.runs.header import read_header, require_header
from pseudoris.store.runs.held_out_pictures import HoldOut, Splits, split_images, split_record
from pseudoris.store.runs.parents import DerivedShard, Parent, packed
from pseudoris.store.runs.plan import iter_plan, write_plan
from pseudoris.store.runs.receipts import RootDigest, list_receipts
from pseudoris.store.tables.image_bytes import PlannedImages
from pseudoris.store.tables.open_run import CommittedShard


class TakenRun(NamedTuple):
    """A run that `combine` takes, with its pinned state and root digest.

    `name` is the first folder of its new keys, "" where they stay; `moved` says where its images are now.
    """

    parent: Parent
    name: str
    moved: Mapping[str, str]
    pinned: ParentRun
    root: str

    def receipts(self) -> Iterator[Receipt]:
        """Yield its receipts at the time it was pinned."""
        return self.parent.receipts(self.pinned)


@dataclass(frozen=True)
class Combination:
    """The runs that `combine` takes, in order; those of one name share no key.

    `begun` is the header of a run that was begun so, `listed` its list of what is left out, if that is sound.
    """

    taken: tuple[TakenRun, ...]
    unique: Unique | None = None
    hold_out: HoldOut | None = None
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
        """Open runs by name and place, as the run at `target` has pinned them if it was begun from them.

        ConfigError if none is given, or one is no run, is not complete (unless `is_partial`), or holds `target` or is
        in it.
        """
        if not given:
            raise ConfigError("there is no run to combine: name one, or several")
        places = [resolved(location.root) for _, location in given]
        if twice := [place for number, place in enumerate(places) if place in places[:number]]:
            raise ConfigError(f"{twice[0]} is named twice: name each run once")
        parents, begun = [Parent.open(location, target) for _, location in given], read_header(target)
        moved = places_by_run([name for name, _ in given], source)

        def taken(pins: Sequence[tuple[ParentRun, str]]) -> tuple[TakenRun, ...]:
            every = zip(parents, given, moved, pins, strict=True)
            return tuple(TakenRun(parent, name, where, *pin) for parent, (name, _), where, pin in every)

        held = pinned_of(begun) if begun is not None and begun.origin == "combine" else []
        if begun is not None and len(held) == len(parents):
            with suppress(ConfigError):
                for parent, (pinned, _) in zip(parents, held, strict=True):
                    parent.check(pinned)
                same = cls(taken(held), unique, hold_out)
                if begun.identity.method != same.method:
                    return same
                same = replace(same, begun=begun)
                with suppress(ConfigError):
                    same = replace(same, listed=read_left_out(target, begun))
                return same
        pins = []
        for parent in parents:
            pinned = parent.pin(is_partial=is_partial)
            # The header that lacks a secret has another digest than that of the run, which `verify` prints.
            root = RootDigest(require_header(parent.location), parent.receipts(pinned))
            pins.append((pinned, root.hexdigest()))
        return cls(taken(pins), unique, hold_out)

    @property
    def method(self) -> dict[str, Any]:
        """What decides the new run besides its parents."""
        runs: list[Any] = [[each.name, each.root] for each in self.taken]
        asked = {"unique": self.unique, "hold_out": self.hold_out and self.hold_out.method}
        return {"combine": {"runs": runs, **{name: each for name, each in asked.items() if each}}}

    @property
    def header(self) -> RunHeader:
        """The header that a new one is a copy of, but for the fields of `plan_into`: that of the first run."""
        return self.taken[0].parent.header

    def check_header(self, location: RunLocation, header: RunHeader) -> None:
        """Accept the run of `header` at `location` if it was combined from these runs; otherwise raise ConfigError."""
        held = pinned_of(header)
        if len(held) != len(self.taken):
            raise ConfigError(
                f"{location.root} was combined from {len(held)} runs ({', '.join(each.location for each, _ in held)}), "
                f"not from {len(self.taken)}: name the same, or another output"
            )
        for each, (pinned, _) in zip(self.taken, held, strict=True):
            each.parent.check(pinned)

    def plan_into(self, location: RunLocation) -> dict[str, Any]:
        """Write the plan of all to the run at `location`; return the fields of its header that follow."""
        left_out, splits = self.chosen
        num_shards = Counter[tuple[int, int]]()
        parts = write_plan(location, self._entries(num_shards))
        record, data = left_out.file()
        is_listed = bool(self.unique or left_out.rows)
        if is_listed:
            location.replace(LEFT_OUT_NAME, data)
        headers = [each.parent.header for each in self.taken]
        shared = CombinedRun.model_fields.keys() & RunHeader.model_fields.keys()
        combined = (
            CombinedRun(
                **{name: getattr(run, name) for name in shared - {"name", "num_shards"}},
                name="/".join(filter(None, (each.name, run.name))),
                run=each.pinned,
                root=each.root,
                num_shards=num_shards[at, place],
            )
            for at, each in enumerate(self.taken)
            for place, run in enumerate(each.parent.header.runs)
        )
        return {
            "plan_parts": parts,
            "num_images": sum(part.rows for part in parts),
            "num_repeated": sum(each.num_repeated for each in headers),
            "num_shards": num_shards.total(),
            "max_shard_bytes": max(each.max_shard_bytes for each in headers),
            "combined": tuple(combined),
            "left_out": record if is_listed else None,
            "splits": None if splits is None else split_record(splits),
            **dict.fromkeys(("parent", "domain", "audits", "exclusions")),
        }

    def derived(self, header: RunHeader) -> Iterator[DerivedShard]:
        """Yield the shards of the combined run of `header`, each with the receipt of the shard that it is made from."""
        numbers, (left_out, splits) = itertools.count(), self.chosen
        num_left = Counter((image.run, image.shard) for image in left_out.rows)
        for at, (each, (pinned, _)) in enumerate(zip(self.taken, pinned_of(header), strict=True)):
            of_images = None if splits is None else splits.get(at, {})
            for receipt in each.parent.receipts(pinned):
                if num_left[at, receipt.shard] < receipt.counts.images:
                    yield DerivedShard(next(numbers), each.parent, receipt, each.name, of_images)

    @cached_property
    def chosen(self) -> tuple[LeftOutImages, Splits | None]:
        """The images that are not taken, and the splits of all others; None if none are drawn and no run has any.

        Left out is what the runs had left out, then copies, then what no split may have; or what the target lists.
        ConfigError if the list of a parent is lost, or if another comes out than the target had.
        """
        left_out, splits, begun = LeftOutImages(), None, self.begun
        has_splits = self.hold_out is not None or any(each.parent.header.splits for each in self.taken)
        is_grouped = self.hold_out is not None and self.hold_out.group == "similar"
        unique = None if self.listed is not None else self.unique
        if self.listed is not None:
            left_out.add_list(self.listed)
        else:
            for at, each in enumerate(self.taken):
                if (listed := each.parent.left_out_list()) is not None:
                    left_out.add_list(listed, at, key_prefix(each.name))
        if has_splits or unique is not None:
            is_hashed = is_grouped or self.unique == "similar"
            pictures = list(self._pictures(is_hashed=is_hashed, has_splits=has_splits))
            if unique is not None:
                left_out.add_copies(pictures, is_similar=unique == "similar")
            elif is_grouped:
                left_out.num_unknown = sum(each.phash is None and not each.is_quarantined for each in pictures)
            if has_splits:
                splits = split_images(pictures, self.hold_out, left_out)
        is_other = begun and begun.splits and (splits is None or split_record(splits) != begun.splits)
        if is_other or (begun and begun.left_out and self.listed is None and left_out.file()[0] != begun.left_out):
            raise ConfigError(
                f"{LEFT_OUT_NAME} is lost, or pictures cannot be read as before, so that another list or other splits "
                "come out: put them back, or restore the list from a copy"
            )
        return left_out, splits

    def _pictures(self, *, is_hashed: bool, has_splits: bool) -> Iterator[Picture]:
        for at, each in enumerate(self.taken):
            location, header = each.parent.location, each.parent.header
            images = PlannedImages(location, header, source=each.moved)
            shards = (CommittedShard(location, receipt) for receipt in each.receipts())
            reading = images if is_hashed else None
            yield from pictures_of(shards, run=at, prefix=key_prefix(each.name), images=reading, has_splits=has_splits)

    def left_out_list(self) -> bytes:
        """Return `LEFT_OUT_NAME` of the new run."""
        return self.chosen[0].file()[1]

    def changed(self) -> Iterator[str]:
        """Yield the place of each run that has other receipts now than when it was pinned."""
        for each in self.taken:
            now = packed(list_receipts(each.parent.location).items())
            if now != packed((receipt.shard, receipt.generation) for receipt in each.receipts()):
                yield each.parent.location.root

    def _entries(self, num_shards: Counter[tuple[int, int]]) -> Iterator[PlanEntry]:
        """Yield the plan of all runs; count shards by the number of the parent, and by the place among its runs."""
        left, number, seen = self.chosen[0].keys, itertools.count(), dict[str, int]()
        names = [each.name for each in self.taken]
        for at, (parent, name, *_) in enumerate(self.taken):
            committed = {receipt.shard for receipt in self.taken[at].receipts()}
            for shard, planned in iter_plan(parent.location, parent.header):
                keyed = ((entry, f"{key_prefix(name)}{entry.key}") for entry in planned)
                entries = [(entry, key) for entry, key in keyed if (at, key) not in left]
                if shard not in committed or not entries:
                    continue
                num_shards[at, parent.header.place_of(shard)] += 1
                of_new = next(number)
                for position, (entry, key) in enumerate(entries):
                    if names.count(name) > 1 and (first := seen.setdefault(key, at)) != at:
                        one, other = (self.taken[each].parent.location.root for each in (first, at))
                        raise ConfigError(
                            f"both {one} and {other} have an image {entry.key}, and one name, {name!r}: give them two "
                            "names, NAME=RUN each"
                        )
                    named = image_id(key) if name else entry.image_id
                    yield replace(entry, shard=of_new, position=position, key=key, image_id=named)


def pinned_of(header: RunHeader) -> list[tuple[ParentRun, str]]:
    """Return the runs that `combine` was given for a run, with their root digests, in order."""
    return list(dict.fromkeys((each.run, each.root) for each in header.combined))
