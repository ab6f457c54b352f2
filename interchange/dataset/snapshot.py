"""Which commits of a run a dataset reads: fixed at construction, so that a growing run does not change the dataset.

For this folder, `training`, users (it is public). Saved trainings hold its `state()` and `digest`: no form may change.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

import pyarrow as pa
import pyarrow.compute as pc

from pseudoris.files.location import RunLocation
from pseudoris.interchange.dataset.torch_names import agreed
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.untrusted import parse_json
from pseudoris.primitives.uris import place
from pseudoris.schemas.run_records import HEADER_NAME
from pseudoris.schemas.tables import EXPRESSIONS, IMAGES, MASKS
from pseudoris.store.runs.header import header_digests
from pseudoris.store.runs.manifest import manifest_numbers, read_manifest, receipts_table, snapshot_path
from pseudoris.store.runs.receipts import list_receipts, of_this_run, read_receipts

logger = logging.getLogger(__name__)

_TABLES: Final = (IMAGES, MASKS, EXPRESSIONS)
_COLUMNS: Final = ("shard", "generation", *(f"{table}_part_name" for table in _TABLES), "images_part_size_bytes")
_HEADER: Final = "header_sha256"


@dataclass(frozen=True, slots=True)
class ShardParts:
    """A committed shard: its number, and its parts' names by table."""

    shard: int
    names: dict[str, str]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The latest commits of a run at one moment, ordered by shard; 200 bytes per shard.

    Attributes:
        manifest: Number of the manifest that holds them; None if the receipts themselves were read.
        table: One row per shard: `shard`, `generation`, and the names of its parts.
        digest: sha256 over all of it: two snapshots of one digest read the same rows.
        retried: Shards of a manifest that were done again since: by shard the latest generation, whose receipt was
            read.
    """

    manifest: int | None
    table: pa.Table
    digest: str
    retried: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def take(cls, location: RunLocation | str | Path) -> Self:
        """Return the latest manifest of a run; if there is none, the current receipts.

        A finished run's last manifest holds all of it. A growing run writes one every 1,000 commits, so the latest may
        be behind. The number of missing shards is logged. Reading the receipts of a large run takes a request for each
        shard, and an earlier state of them has no number: hence the manifest first.

        Shards of the manifest that were done again since (`--retry-failed`) are read in their latest generation: `gc`
        deletes the parts that the manifest names, and the next manifest may never come.

        Raises:
            ConfigError: Nothing is committed yet, or a manifest is of another version.
            TransientError: Storage failed, or the manifest is damaged: `of_receipts` does without.
        """
        location = _opened(location)
        numbers = manifest_numbers(location)
        if not numbers:
            return cls.of_receipts(location)
        snapshot, latest = cls.of_manifest(location, numbers[-1]), list_receipts(location)
        num_newer = len(latest) - len(snapshot)
        if num_newer > 0:
            logger.info(
                "Manifest %d of %s lists %d shards. %d newer shards are not read (Snapshot.of_receipts reads them "
                "too).",
                *(numbers[-1], location.root, len(snapshot), num_newer),
            )
        retried = {shard: latest[shard] for shard, held in snapshot.commits() if latest.get(shard, 0) > held}
        return snapshot._with_retried(location, retried)

    @classmethod
    def shared(cls, location: RunLocation | str | Path, turn: str | int = 0) -> Self:
        """Return the snapshot that the processes of the torch.distributed group agree on; without a group, `take`.

        The first process of a turn takes it, and the others read the same. No process waits for another. So all ranks
        read the same rows of a growing run, in whatever order they start. Raises as `take`.

        Args:
            location: Where the run lives, or its folder or url; the same for all.
            turn: Name of the agreement, which holds as long as the group exists. 0 is for new datasets, and refreshes
                have their own. Any other, such as `epoch 7`, is a separate agreement.
        """
        location = _opened(location)
        taken: list[Self] = []

        def propose() -> str:
            taken.append(cls.take(location))
            return json.dumps(taken[0].state())

        state = parse_json(agreed(f"snapshot/{turn}/{location.root}", propose))
        if taken and taken[0].digest == state["digest"]:
            return taken[0]
        return cls.from_state(location, state)

    @classmethod
    def of_manifest(cls, location: RunLocation | str | Path, number: int) -> Self:
        """Return a manifest by its number."""
        location = _opened(location)
        table = read_manifest(location, number, (*_COLUMNS, _HEADER))
        if not set(table[_HEADER].to_pylist()) <= header_digests(location):
            raise ConfigError(
                f"{location.uri(snapshot_path(number))} names another header than this run's: it, or {HEADER_NAME}, "
                "was replaced. Restore the file from a copy"
            )
        return cls._of(location, number, table.select(_COLUMNS))

    @classmethod
    def of_receipts(cls, location: RunLocation | str | Path) -> Self:
        """Return everything that is committed now: a listing, and one request per shard."""
        location = _opened(location)
        return cls._of_commits(location, list_receipts(location))

    @classmethod
    def from_state(cls, location: RunLocation | str | Path, state: dict[str, Any]) -> Self:
        """Return the snapshot that `state` describes, as it was; a ConfigError if the run no longer has it."""
        location = _opened(location)
        packed = state["commits"] or []
        commits = {shard: generation for first, count, generation in packed for shard in range(first, first + count)}
        if state["manifest"] is not None:
            found = cls.of_manifest(location, state["manifest"])._with_retried(location, commits)
        else:
            found = cls._of_commits(location, commits)
        if found.digest != state["digest"]:
            raise ConfigError(
                f"{location.root} does not have the commits of the saved state: its snapshot has another digest. It "
                "is another run, or the run was begun anew. Train from the start of an epoch."
            )
        return found

    def state(self) -> dict[str, Any]:
        """Return what `from_state` needs, as JSON: a manifest's number and the commits in it that others replace.

        Without a manifest: all commits. Commits come run by run.
        """
        commits = self.commits() if self.manifest is None else self.retried.items()
        # Each item is [first shard, number of shards, generation].
        runs: list[list[int]] = []
        for shard, generation in commits:
            if runs and runs[-1][2] == generation and runs[-1][0] + runs[-1][1] == shard:
                runs[-1][1] += 1
            else:
                runs.append([shard, 1, generation])
        return {"manifest": self.manifest, "commits": runs or None, "digest": self.digest}

    def commits(self) -> list[tuple[int, int]]:
        """Return shard and generation of every commit, by shard."""
        return list(zip(self.table["shard"].to_pylist(), self.table["generation"].to_pylist(), strict=True))

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
    def _of_commits(cls, location: RunLocation, commits: Mapping[int, int]) -> Self:
        receipts = of_this_run(location, read_receipts(location, sorted(commits.items())))
        return cls._of(location, None, receipts_table(receipts).select(_COLUMNS))

    def _with_retried(self, location: RunLocation, retried: Mapping[int, int]) -> Self:
        """Return this snapshot with some shards replaced by another generation."""
        if not retried:
            return self
        kept = self.table.filter(pc.invert(pc.is_in(self.table["shard"], pa.array(retried, pa.int64()))))
        anew = self._of_commits(location, retried).table
        merged = pa.concat_tables([kept, anew.cast(kept.schema)]).sort_by("shard")
        return replace(self._of(location, self.manifest, merged), retried=dict(sorted(retried.items())))

    @classmethod
    def _of(cls, location: RunLocation, number: int | None, table: pa.Table) -> Self:
        if not table.num_rows:
            raise ConfigError(
                f"The run at {location.root} has no committed shard yet, so there is nothing to train on."
            )
        table = table.combine_chunks()
        digest = hashlib.sha256()
        for name in ("shard", "generation", *(f"{each}_part_name" for each in _TABLES)):
            digest.update("\n".join(map(str, table[name].to_pylist())).encode() + b"\0")
        return cls(number, table, digest.hexdigest())


def _opened(location: RunLocation | str | Path) -> RunLocation:
    return location if isinstance(location, RunLocation) else RunLocation.open(place(location, "location"))
