"""Which commits of a run a dataset reads: fixed when it is made, so that a run that grows does not shift under it."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from typing import Any, Final, Self

import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import ConfigError
from schemas.tables import EXPRESSIONS, IMAGES, MASKS
from store.location import RunLocation
from store.manifest import manifest_numbers, read_manifest, receipts_table
from store.receipts import list_receipts, read_receipts

logger = logging.getLogger(__name__)

_TABLES: Final = (IMAGES, MASKS, EXPRESSIONS)
_COLUMNS: Final = ("shard", "generation", *(f"{table}_part_name" for table in _TABLES), "images_part_size_bytes")


@dataclass(frozen=True, slots=True)
class ShardParts:
    """A committed shard: its number, and its parts' names by table."""

    shard: int
    names: dict[str, str]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The standing commits of a run at one moment, ordered by shard; 200 bytes a shard.

    Attributes:
        manifest: Number of the manifest that holds them; None where the receipts themselves were read.
        table: A row a shard: `shard`, `generation`, and the names of its parts.
        digest: sha256 over all of it: two snapshots of one digest read the same rows.
    """

    manifest: int | None
    table: pa.Table
    digest: str

    @classmethod
    def take(cls, location: RunLocation) -> Self:
        """Return the latest manifest; where none stands, what the receipts say now.

        A finished run's last manifest holds all of it. A growing run writes one every 1,000 commits, so that it may
        be so far behind; the number of shards that it leaves out is logged. Reading the receipts of a large run is a
        request a shard, and what they said an hour ago has no number: hence the manifest first.

        Raises:
            ConfigError: Nothing is committed yet, or a manifest is of another version.
            TransientError: Storage failed, or the manifest is damaged: `of_receipts` does without.
        """
        numbers = manifest_numbers(location)
        if not numbers:
            return cls.of_receipts(location)
        snapshot = cls.of_manifest(location, numbers[-1])
        num_newer = len(list_receipts(location)) - len(snapshot)
        if num_newer > 0:
            logger.info(
                "manifest %d of %s holds %d shards; %d committed since are left for the next one (Snapshot.of_receipts "
                "reads them too)",
                *(numbers[-1], location.root, len(snapshot), num_newer),
            )
        return snapshot

    @classmethod
    def of_manifest(cls, location: RunLocation, number: int) -> Self:
        """Return a manifest by its number.

        Raises:
            ConfigError: There is no such manifest, it is of another version, or it is empty.
            TransientError: Storage failed, or it is damaged.
        """
        return cls._of(location, number, read_manifest(location, number, _COLUMNS))

    @classmethod
    def of_receipts(cls, location: RunLocation) -> Self:
        """Return everything that is committed now: a listing, and a request a shard.

        Raises:
            ConfigError: Nothing is committed yet, or a receipt cannot be used.
            TransientError: Storage failed.
        """
        return cls._of_commits(location, list_receipts(location))

    @classmethod
    def from_state(cls, location: RunLocation, state: dict[str, Any]) -> Self:
        """Return the snapshot that `state` describes, as it was.

        Raises:
            ConfigError: The run does not hold it any more.
            TransientError: Storage failed.
        """
        if state["manifest"] is not None:
            found = cls.of_manifest(location, state["manifest"])
        else:
            found = cls._of_commits(location, _unpacked(state["commits"]))
        if found.digest != state["digest"]:
            raise ConfigError(
                f"{location.root} does not hold the commits of the saved state: its snapshot has another digest. It is "
                "another run, or one that was begun anew: train from the start of an epoch"
            )
        return found

    def state(self) -> dict[str, Any]:
        """Return what `from_state` needs, as JSON: a manifest's number, or else the commits, run by run."""
        commits = None if self.manifest is not None else _packed(self.table)
        return {"manifest": self.manifest, "commits": commits, "digest": self.digest}

    def parts(self, row: int) -> ShardParts:
        """Return the shard in a row of the snapshot."""
        names = {table: self.table[f"{table}_part_name"][row].as_py() for table in _TABLES}
        return ShardParts(self.table["shard"][row].as_py(), names)

    @property
    def images_bytes(self) -> int:
        """Size of all parts of the images table: with embedded images, nearly that of their encoded bytes."""
        return int(pc.sum(self.table["images_part_size_bytes"]).as_py() or 0)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @classmethod
    def _of_commits(cls, location: RunLocation, commits: dict[int, int]) -> Self:
        receipts = read_receipts(location, sorted(commits.items()))
        return cls._of(location, None, receipts_table(receipts).select(_COLUMNS))

    @classmethod
    def _of(cls, location: RunLocation, number: int | None, table: pa.Table) -> Self:
        if not table.num_rows:
            raise ConfigError(f"nothing of the run at {location.root} is committed yet: there is nothing to train on")
        table = table.combine_chunks()
        digest = hashlib.sha256()
        for name in ("shard", "generation", *(f"{each}_part_name" for each in _TABLES)):
            digest.update("\n".join(map(str, table[name].to_pylist())).encode() + b"\0")
        return cls(number, table, digest.hexdigest())


def _packed(table: pa.Table) -> list[list[int]]:
    """Return runs [first shard, how many, generation] of neighbours that share a generation."""
    runs: list[list[int]] = []
    for shard, generation in zip(table["shard"].to_pylist(), table["generation"].to_pylist(), strict=True):
        if runs and runs[-1][2] == generation and runs[-1][0] + runs[-1][1] == shard:
            runs[-1][1] += 1
        else:
            runs.append([shard, 1, generation])
    return runs


def _unpacked(runs: list[list[int]]) -> dict[int, int]:
    return {shard: generation for first, count, generation in runs for shard in range(first, first + count)}
