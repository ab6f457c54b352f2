"""The parent run: the complete run that another run is made from, pinned by the bytes of its last manifest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.exclusion_records import exclusions_of
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.run_records import PLAN_FOLDER, ParentRun, PartRecord, Receipt, RunHeader
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.manifest import latest_snapshot, read_snapshot, snapshot_path, snapshot_sha256
from pseudoris.store.runs.receipts import list_receipts, of_this_run, part_path


@dataclass(frozen=True, slots=True)
class Parent:
    """A run that another run is made from; it is only read."""

    location: RunLocation
    header: RunHeader

    @classmethod
    def open(cls, location: RunLocation, target: RunLocation) -> Self:
        """Open the run at `location`, from which the run at `target` is made.

        Raises:
            ConfigError: There is no run, or one of the two folders contains the other.
            TransientError: Storage failed.
        """
        if location.holds(target) or target.holds(location):
            raise ConfigError(
                f"the new run at {target.root} would be inside its parent {location.root}, or contain it: name another "
                "output"
            )
        return cls(location, require_header(location))

    def pin(self) -> ParentRun:
        """Return the present state of the run, pinned: a later retry or extension does not affect the child run.

        Raises:
            ConfigError: It is not complete, or its last manifest lacks commits.
            TransientError: Storage failed, or the manifest cannot be read.
        """
        location, header = self.location, self.header
        latest = list_receipts(location)
        if len(latest) < header.num_shards:
            raise ConfigError(
                f"{location.root} is not complete, {len(latest):,} of {header.num_shards:,} shards are committed: "
                f"run the `{header.origin}` command that started it again to finish it"
            )
        number = latest_snapshot(location)
        held = iter(()) if number is None else of_this_run(location, read_snapshot(location, number))
        pinned = {each.shard: each.generation for each in held}
        if number is None or pinned != latest:
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
        """Accept this run if it is the one that `pinned` names, even if it was moved.

        Raises:
            ConfigError: It is another run.
            TransientError: Storage failed.
        """
        location, header = self.location, self.header
        if header.created_utc != pinned.created_utc:
            differs = f"the first was created at {pinned.created_utc}, the second at {header.created_utc}"
        else:
            try:
                digest = snapshot_sha256(location, pinned.manifest)
            except FileNotFoundError:
                digest = "none"
            if digest == pinned.manifest_sha256:
                return
            differs = (
                f"{snapshot_path(pinned.manifest)} has sha256 {pinned.manifest_sha256} in the first, {digest} in the "
                "second"
            )
        raise ConfigError(
            f"this output was made from the run {pinned.location}, not from {location.root}: {differs}. Give the first "
            "run to continue, or name another output"
        )

    def receipts(self, pinned: ParentRun) -> Iterator[Receipt]:
        """Yield the receipts of this run at the time it was pinned, ordered by shard; a few are held at once.

        Raises:
            TransientError: Storage failed, or the manifest cannot be read.
        """
        return read_snapshot(self.location, pinned.manifest)

    def read_part(self, table: str, part: PartRecord) -> bytes:
        """Return the bytes of a part, checked against its receipt.

        Raises:
            ConfigError: It is missing or damaged.
            TransientError: Storage failed.
        """
        location, path = self.location, part_path(table, part)
        try:
            data = location.read_bytes(path)
        except FileNotFoundError:
            raise ConfigError(
                f"{location.uri(path)} is missing: it was deleted, or a retry of quarantined images replaced it. To "
                "start again from the parent as it is now, name another output"
            ) from None
        if sha256_hex(data) != part.sha256:
            raise ConfigError(
                f"{location.uri(path)} is damaged: run `pseudoris verify {location.root}` to find all damage"
            )
        return data

    def copy_plan(self, target: RunLocation) -> None:
        """Copy the plan of this run, and what it excludes, into the run at `target`, byte for byte.

        Raises:
            ConfigError: A part of it is missing or damaged, or `target` cannot be written.
            TransientError: Storage failed.
        """
        for part in self.header.plan_parts:
            target.put_part(f"{PLAN_FOLDER}/{part.name}", self.read_part(PLAN_FOLDER, part))
        if record := exclusions_of(self.header):
            target.put_part(f"{PLAN_FOLDER}/{record.part.name}", self.read_part(PLAN_FOLDER, record.part))
