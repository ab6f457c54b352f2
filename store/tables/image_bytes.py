"""Finds the encoded bytes of a run's images, embedded or in SOURCE. Called by every room that needs images of a run.

Only the annotated version of an image is given: other bytes are `changed`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from pseudoris.files.key_order import key_prefix
from pseudoris.files.location import RunLocation
from pseudoris.images.perceptual_hash import perceptual_hash
from pseudoris.images.pixels import decode_upright
from pseudoris.primitives.errors import ConfigError, ImageError
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.run_records import PlanEntry, RunHeader
from pseudoris.schemas.tables import IMAGES
from pseudoris.store.runs.plan import read_shard_plan
from pseudoris.store.sources.planned_images import Outcome, read_entries
from pseudoris.store.sources.root import SourceRoot
from pseudoris.store.sources.source import open_recorded_root, open_root
from pseudoris.store.tables.open_run import CommittedShard, Row

logger = logging.getLogger(__name__)

# This remedy follows errors about images that are no longer where the run found them.
MOVED: Final = (
    "say where they are now: source=… in Python; --source PATH, NAME=PATH for each name of a combined run, or --images "
    "of `pseudoris evaluate`, in a command; --set 'data.moved={OLD: NEW}' in a training"
)


def is_of_others(given: str, header: RunHeader) -> bool:
    """Return whether a key of `source` is a name that no run of `header` has; a path or url is none."""
    is_named = any(f"{each.name}/".startswith(f"{given}/") or given == each.source for each in header.runs)
    return not is_named and "://" not in given and not Path(given).is_absolute()


class PlannedImages:
    """Reads images of a run again from its SOURCE. Can be pickled; keeps the roots, and the plan of the last shard."""

    def __init__(
        self,
        location: RunLocation,
        header: RunHeader,
        *,
        source: str | Mapping[str, str] | None = None,
        is_random_access: bool = False,
    ) -> None:
        """Wire it; `source` says where the images are now, and random access keeps the plans of all shards.

        It may map each SOURCE of the header to its place, or each name of a combined run; a name stands for all that
        begin with it. ConfigError for a name that the run has not.
        """
        self._location = location
        self._header = header
        self._source = {"": source} if isinstance(source, str) else dict(source or {})
        names = dict.fromkeys(each.name for each in header.runs)
        for given in self._source:
            if given and is_of_others(given, header):
                known = f"the names {', '.join(names)}" if any(names) else "no names: it is not combined of several"
                raise ConfigError(f"there are no images {given!r} to be moved: {location.root} has {known}")
        self._is_random_access = is_random_access
        self._plans: dict[int, dict[str, PlanEntry]] = {}
        self._roots: dict[tuple[str, str | None], SourceRoot] = {}

    def read(self, shard: int, keys: Collection[str], proven: Collection[str] = ()) -> Iterator[tuple[str, Outcome]]:
        """Yield key and outcome of each image, in the order of the plan; neighbours in a file are read together.

        An image that is missing, changed or too large is an outcome. Those of `proven`, whose digests the caller
        compares, may have any time and etag: a copied file, or a tar that has grown, has others. ConfigError if SOURCE
        itself no longer exists.
        """
        header, plan = self._header.of_shard(shard), self._plans.get(shard)
        config, (moved, prefix) = header.config, self._place(header)
        if plan is None:
            plan = {entry.key: entry for entry in read_shard_plan(self._location, self._header, shard)}
            # The mapping is replaced and never changed, because threads that read ahead may use it at any time.
            self._plans = {**self._plans, shard: plan} if self._is_random_access else {shard: plan}
        unbound = keys if moved is not None else proven
        chosen = (replace(plan[key], etag=None, mtime_ns=None) if key in unbound else plan[key] for key in keys)
        entries = sorted(chosen, key=lambda entry: entry.position)
        place = moved or header.source
        root = place, config.source.endpoint_url
        if root not in self._roots:
            opened = open_recorded_root if moved is None else open_root
            try:
                self._roots[root] = opened(place, config.source, config.placement.storage)
            except ConfigError as error:
                said = str(error) if str(error).endswith((".", "?")) else f"{error}."
                raise ConfigError(f"{said} If the images were moved, {MOVED}.") from None
        keys_by_position = {entry.position: entry.key for entry in entries}
        entries = [replace(entry, key=entry.key.removeprefix(prefix)) for entry in entries] if prefix else entries
        for position, outcome in read_entries(self._roots[root], entries, config):
            yield keys_by_position[position], outcome

    def _place(self, run: RunHeader) -> tuple[str | None, str]:
        """Return where the images of a run are now, None if they have not moved; and the prefix of their keys there."""
        words = run.name.split("/")
        for num in range(len(words), -1, -1):
            given = "/".join(words[:num])
            if given in self._source:
                return self._source[given], key_prefix(given)
        return self._source.get(run.source), key_prefix(run.name)

    def outcomes(self, shard: int, wanted: Sequence[tuple[str, str | None, bytes | None]]) -> Iterator[Outcome]:
        """Yield what comes of images of a shard, given as key, sha256 and embedded bytes, in their order.

        Images without embedded bytes are read as by `read`. Bytes of another sha256 are `changed`, because the masks
        would not fit them; None as sha256 compares time and etag in its place. One at a time is held if they are in the
        order of the plan.
        """
        absent = {key for key, _, data in wanted if data is None}
        proven = {key for key, sha256, _ in wanted if sha256 is not None}
        found, held = self.read(shard, absent, proven) if absent else iter(()), dict[str, Outcome]()
        for key, sha256, data in wanted:
            while data is None and key not in held:
                held.update([next(found)])
            outcome = held.pop(key) if data is None else data
            if isinstance(outcome, bytes) and sha256 is not None and sha256_hex(outcome) != sha256:
                outcome = ImageError("changed", "the bytes have changed since the annotation")
            yield outcome

    def phashes(self, shard: CommittedShard, rows: Sequence[Row]) -> dict[str, str | None]:
        """Return the perceptual hashes of images of a shard, by key; None if one cannot be read. Raises as `read`.

        `rows` are of the table `images`, with `key`, `sha256` and `phash`, which is computed where it is null.
        """
        found = {row["key"]: row["phash"] for row in rows}
        lacking = [row for row in rows if row["phash"] is None]
        if not lacking:
            return found
        number = shard.receipt.shard
        limits = self._header.of_shard(number).config.images
        held = shard.table(IMAGES, ("key", "bytes"))
        data = dict(zip(held["key"].to_pylist(), held["bytes"].to_pylist(), strict=True))
        wanted = [(row["key"], row["sha256"], data[row["key"]]) for row in lacking]
        for row, outcome in zip(lacking, self.outcomes(number, wanted), strict=True):
            try:
                if isinstance(outcome, ImageError):
                    raise outcome
                found[row["key"]] = perceptual_hash(decode_upright(outcome, limits))
            except ImageError as error:
                logger.warning("%s has no perceptual hash: %s", row["key"], error)
        return found

    def annotated(self, shard: int, row: Mapping[str, Any]) -> bytes:
        """Return an image's bytes, as `outcomes`; raises its ImageError.

        `row` is of the table `images`, with `key`, `sha256` and `bytes`.
        """
        (outcome,) = self.outcomes(shard, [(row["key"], row["sha256"], row["bytes"])])
        if isinstance(outcome, ImageError):
            raise outcome
        return outcome
