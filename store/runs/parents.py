"""The run that another run is made from, whose plan it has. It is only read. Several in one: `combination.py`.

`planned_run.py` pins it by the bytes of its last manifest, and `sessions` writes the tables of its shards anew.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import pyarrow as pa

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.uris import NO_FIELDS, RECORDED, masked
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.run_records import PLAN_FOLDER, ParentRun, PartRecord, Receipt, RunHeader
from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.exclusion_rules import plan_files
from pseudoris.store.runs.copied_pictures import LEFT_OUT_NAME, read_left_out
from pseudoris.store.runs.header import held_texts, read_header, require_header
from pseudoris.store.runs.manifest import (
    cached_receipts,
    latest_snapshot,
    read_snapshot,
    snapshot_path,
    snapshot_sha256,
)
from pseudoris.store.runs.receipts import list_receipts, of_this_run, part_path
from pseudoris.store.tables.parts import read_part, read_whole

logger = logging.getLogger(__name__)


class DerivedShard(NamedTuple):
    """A shard of a run that is made out of a parent's: its number, and the receipt of the parent's shard.

    `name` is what `combine` writes before the keys, `splits` are those of the parent's images by id; None leaves them.
    """

    number: int
    parent: Parent
    receipt: Receipt
    name: str = ""
    splits: Mapping[str, str | None] | None = None

    def __str__(self) -> str:
        return f"shard {self.receipt.shard} of {self.parent.location.root}"

    def tables(self, contents: Mapping[str, bytes]) -> dict[str, pa.Table]:
        """Return the tables of parts whose bytes `read_part` has given, by name; ConfigError if one cannot be read."""
        location, parts = self.parent.location, self.receipt.parts
        uris = {name: location.uri(part_path(name, parts[name])) for name in contents}
        return {name: read_part(io.BytesIO(data), SCHEMAS[name], uris[name]) for name, data in contents.items()}


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
        latest, number = list_receipts(location), None
        is_whole = len(latest) >= header.num_shards
        if not is_whole and not (latest and is_partial):
            raise ConfigError(
                f"{location.root} is not complete, {len(latest):,} of {header.num_shards:,} shards are committed: "
                f"run the `{header.origin}` command that started it again to finish it"
            )
        if is_whole:
            number = latest_snapshot(location)
            held = iter(()) if number is None else of_this_run(location, read_snapshot(location, number))
            listed = {each.shard: each.generation for each in held}
            if number is None or listed != latest:
                raise ConfigError(
                    f"the last manifest of {location.root} lacks some commits: run the `{header.origin}` command that "
                    "started it again; that writes a new manifest"
                )
        pinned = ParentRun(
            location=location.root,
            created_utc=header.created_utc,
            manifest=number or 0,
            manifest_sha256=sha256_hex(b""),
            commits=() if is_whole else packed(latest.items()),
        )
        return pinned.model_copy(update={"manifest_sha256": self._digest(pinned)})

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
        if (listed := self.left_out_list()) is not None:
            location.replace(LEFT_OUT_NAME, listed)
        return {}

    def left_out_list(self) -> bytes | None:
        """Return the list of the images that were left out of the run, as `read_left_out`."""
        return read_left_out(self.location, self.header)


def packed(commits: Iterable[tuple[int, int]]) -> tuple[tuple[int, int, int], ...]:
    """Return (shard, generation) pairs, ordered by shard, as [first shard, number of shards, generation]."""
    runs: list[tuple[int, int, int]] = []
    for shard, generation in commits:
        first, num, at = runs[-1] if runs else (0, 0, -1)
        if (first + num, at) == (shard, generation):
            runs[-1] = (first, num + 1, at)
        else:
            runs.append((shard, 1, generation))
    return tuple(runs)
