"""Reads the encoded bytes of planned images from SOURCE. Called by every room that needs images of a run.

Only the planned version of a file is accepted: another etag, time or size is `changed`. An image's fault is an outcome
of that image; a storage's fault is raised.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Final

from pseudoris.files.key_order import file_path
from pseudoris.files.location import RunLocation
from pseudoris.files.storage import NoBucketError, StoredFile
from pseudoris.primitives.errors import ConfigError, ImageError, RefusedError, TransientError, too_many_bytes
from pseudoris.primitives.threads import map_in_threads
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.run_records import PlanEntry, RunHeader
from pseudoris.store.runs.plan import read_shard_plan
from pseudoris.store.sources.image_tables import RowImage, read_rows
from pseudoris.store.sources.root import SourceRoot, resolve_uri
from pseudoris.store.sources.source import open_recorded_root, open_root

_MISSING: Final = ImageError("missing", "the image was planned but is not there")
_NO_BUCKET: Final = ImageError("missing", "there is no bucket of this name, in this region, at this endpoint")
_NO_CREDENTIALS: Final = ImageError("denied", "there are no credentials for the store that the uri names")

# Members of a tar are read together if at most this many bytes are between them: headers, labels, other files. From a
# bucket, a megabyte takes as long as the latency of another request.
_MAX_GAP_BYTES: Final = 2**20
# One read of members has at most this many bytes, because it is copied when it is cut into members.
_MAX_SPAN_BYTES: Final = 32 * 2**20
# A row group's image column is read from a bucket in windows of this many bytes.
_TABLE_WINDOW_BYTES: Final = 8 * 2**20

# This remedy follows errors about images that are no longer where the run found them.
MOVED: Final = (
    "say where they are now: source=… in Python; --source, or --images of `pseudoris evaluate`, in a command; --set "
    "'data.moved={OLD: NEW}' in a training"
)

Outcome = bytes | ImageError


@dataclass(frozen=True, slots=True)
class Reading:
    """What came of reading the entry at `position` of its shard, and the kind of store that was asked.

    The outcome is bytes, the image's error, or a refusal, which may be the image's fault or the store's.
    """

    position: int
    outcome: Outcome | RefusedError
    store: str


def read_entries(root: SourceRoot, entries: Sequence[PlanEntry], config: RunConfig) -> Iterator[tuple[int, Outcome]]:
    """Yield position and outcome of each entry, as `read_or_refused`; a refusal is raised."""
    for reading in read_or_refused(root, entries, config):
        if isinstance(reading.outcome, RefusedError):
            raise reading.outcome
        yield reading.position, reading.outcome


def read_or_refused(root: SourceRoot, entries: Sequence[PlanEntry], config: RunConfig) -> Iterator[Reading]:
    """Yield what comes of each entry of a shard, in its order; neighbours in one file are read from one handle.

    Of `config`, `source`, `images.max_bytes` and `placement.storage` are used.
    """
    groups = [list(group) for _, group in itertools.groupby(entries, key=lambda entry: file_path(entry.key))]
    read = functools.partial(_read_group, root, config=config)
    num_readers = min(root.storage.max_readers, len(groups))
    # Threads read several images at once, because a request to a bucket is nearly all latency.
    found = map(read, groups) if num_readers < 2 else map_in_threads(read, groups, num_readers)
    yield from itertools.chain.from_iterable(found)


def _read_group(root: SourceRoot, entries: Sequence[PlanEntry], *, config: RunConfig) -> list[Reading]:
    """Return what comes of the entries of one file; only its planned version is accepted."""
    path, first = file_path(entries[0].key), entries[0]
    # The size of a tar or a table is not checked, because the plan holds only the size of the image in it.
    is_whole_file = first.offset_bytes is None and first.row_group is None
    expected = StoredFile(path, first.size_bytes if is_whole_file else None, first.etag, first.mtime_ns)
    window_bytes = 0 if first.row_group is None else _TABLE_WINDOW_BYTES
    failure: ImageError | RefusedError
    try:
        with root.open_version(path, expected, window_bytes=window_bytes) as stream:
            if first.row_group is None:
                outcomes = _read_ranges(stream, entries, config)
                return [Reading(entry.position, outcomes[entry.position], root.store) for entry in entries]
            return _read_table(stream, root, entries=entries, config=config)
    except (ImageError, RefusedError) as error:
        failure = error
    except FileNotFoundError:
        failure = _MISSING
    return [Reading(entry.position, failure, root.store) for entry in entries]


def _read_ranges(stream: BinaryIO, entries: Sequence[PlanEntry], config: RunConfig) -> dict[int, Outcome]:
    """Return the bytes of a tar's members, or of the one image that is the whole file."""
    limit = config.images.max_bytes
    outcomes: dict[int, Outcome] = {}
    wanted: list[PlanEntry] = []
    for entry in entries:
        if entry.size_bytes is not None and entry.size_bytes > limit:
            outcomes[entry.position] = too_many_bytes(entry.size_bytes, config.images.max_bytes)
        elif entry.size_bytes is None:
            outcomes[entry.position] = stream.read(limit + 1)
        else:
            wanted.append(entry)
    for span in _spans(wanted):
        start = span[0].offset_bytes or 0
        stream.seek(start)
        data = memoryview(stream.read(_end(span[-1]) - start))
        for entry in span:
            image = bytes(data[(entry.offset_bytes or 0) - start : _end(entry) - start])
            is_short = len(image) < (entry.size_bytes or 0)
            outcomes[entry.position] = ImageError("changed", "it ends before its planned size") if is_short else image
    return outcomes


def _spans(entries: Iterable[PlanEntry]) -> Iterator[list[PlanEntry]]:
    """Yield groups of neighbours that are read with one request, in the order of the entries."""
    span: list[PlanEntry] = []
    for entry in entries:
        start = entry.offset_bytes or 0
        fits = bool(span) and 0 <= start - _end(span[-1]) <= _MAX_GAP_BYTES
        if span and not (fits and _end(entry) - (span[0].offset_bytes or 0) <= _MAX_SPAN_BYTES):
            yield span
            span = []
        span.append(entry)
    if span:
        yield span


def _end(entry: PlanEntry) -> int:
    return (entry.offset_bytes or 0) + (entry.size_bytes or 0)


def _read_table(
    stream: BinaryIO, root: SourceRoot, *, entries: Sequence[PlanEntry], config: RunConfig
) -> list[Reading]:
    """Return what comes of rows of a Parquet file, all from one row group."""
    # The table's real uri is used, with its secrets, because relative uris of rows are resolved by it.
    table, store = root.storage.uri(file_path(entries[0].key)), root.store
    positions = {entry.row: entry.position for entry in entries if entry.row is not None}
    readings: dict[int, Reading] = {}
    rest = ImageError("changed", "the Parquet file has no such row")
    try:
        found = read_rows(
            stream,
            entries[0].row_group or 0,
            rows=positions,
            config=config.source,
            max_bytes=config.images.max_bytes,
            table=table,
        )
        for row, image in found:
            outcome, other_store = _read_row(image, table, config)
            readings[positions[row]] = Reading(positions[row], outcome, other_store or store)
    except ImageError as error:
        # The row group is damaged. The rows before the damage are good, and the other rows get this error.
        rest = error
    return [readings.get(position, Reading(position, rest, store)) for position in positions.values()]


def _read_row(image: RowImage | ImageError, table: str, config: RunConfig) -> tuple[Outcome | RefusedError, str | None]:
    """Return what comes of a row, and the store that its uri names; None if the table itself was asked."""
    if isinstance(image, ImageError):
        return image, None
    if image.data is not None:
        return image.data, None
    if image.uri is None:
        return ImageError("empty_file", "the row holds null"), None
    try:
        root, path = resolve_uri(image.uri, table, config.source, config.placement.storage)
    except ImageError as error:
        return error, None
    return _read_uri(root, path, config), root.store


def _read_uri(root: SourceRoot, path: str, config: RunConfig) -> Outcome | RefusedError:
    try:
        with root.open(path) as stream:
            data = stream.read(config.images.max_bytes + 1)
    except FileNotFoundError:
        return _MISSING
    except (ImageError, RefusedError) as error:
        return error
    except NoBucketError as error:
        return RefusedError(str(error), _NO_BUCKET, any_store=True)
    except ConfigError as error:
        return RefusedError(str(error), _NO_CREDENTIALS)
    except TransientError as error:
        if root.store != "web":
            raise
        # A failing web server counts as a refusal. If all fail, `settle_refusals` blames this machine's network.
        return RefusedError(str(error))
    if len(data) <= config.images.max_bytes:
        return data
    return ImageError("too_many_bytes", f"more bytes than images.max_bytes allows ({config.images.max_bytes:,})")


class PlannedImages:
    """Reads images of a run again from its SOURCE. Can be pickled; keeps the root, and the plan of the last shard."""

    def __init__(
        self, location: RunLocation, header: RunHeader, *, source: str | None = None, is_random_access: bool = False
    ) -> None:
        """Wire it; `source` says where the images are now, and random access keeps the plans of all shards."""
        self._location = location
        self._header = header
        self._source = source
        self._is_random_access = is_random_access
        self._plans: dict[int, dict[str, PlanEntry]] = {}
        self._root: SourceRoot | None = None

    def read(self, shard: int, keys: Collection[str]) -> Iterator[tuple[str, Outcome]]:
        """Yield key and outcome of each image, in the order of the plan; neighbours in a file are read together.

        An image that is missing, changed or too large is an outcome. ConfigError if SOURCE itself no longer exists.
        """
        config, plan = self._header.config, self._plans.get(shard)
        if plan is None:
            planned = read_shard_plan(self._location, self._header, shard)
            if self._source is not None:
                # A copied file has another time and etag, so the sha256 decides whether it is the same image.
                planned = [replace(entry, etag=None, mtime_ns=None) for entry in planned]
            plan = {entry.key: entry for entry in planned}
            # The mapping is replaced and never changed, because threads that read ahead may use it at any time.
            self._plans = {**self._plans, shard: plan} if self._is_random_access else {shard: plan}
        entries = sorted((plan[key] for key in keys), key=lambda entry: entry.position)
        if self._root is None:
            opened = open_recorded_root if self._source is None else open_root
            try:
                self._root = opened(self._source or self._header.source, config.source, config.placement.storage)
            except ConfigError as error:
                raise ConfigError(f"{str(error).removesuffix('.')}. If the images were moved, {MOVED}.") from None
        keys_by_position = {entry.position: entry.key for entry in entries}
        for position, outcome in read_entries(self._root, entries, config):
            yield keys_by_position[position], outcome

    def outcomes(self, shard: int, wanted: Sequence[tuple[str, str | None, bytes | None]]) -> Iterator[Outcome]:
        """Yield what comes of images of a shard, given as key, sha256 and embedded bytes, in their order.

        Images without embedded bytes are read as by `read`. Bytes of another sha256 are `changed`, because the masks
        would not fit them; None as sha256 compares nothing. One at a time is held if they are in the order of the plan.
        """
        absent = {key for key, _, data in wanted if data is None}
        found, held = self.read(shard, absent) if absent else iter(()), dict[str, Outcome]()
        for key, sha256, data in wanted:
            while data is None and key not in held:
                held.update([next(found)])
            outcome = held.pop(key) if data is None else data
            if isinstance(outcome, bytes) and sha256 is not None and sha256_hex(outcome) != sha256:
                outcome = ImageError("changed", "the bytes have changed since the annotation")
            yield outcome

    def annotated(self, shard: int, row: Mapping[str, Any]) -> bytes:
        """Return an image's bytes, as `outcomes`; raises its ImageError.

        `row` is of the table `images`, with `key`, `sha256` and `bytes`.
        """
        (outcome,) = self.outcomes(shard, [(row["key"], row["sha256"], row["bytes"])])
        if isinstance(outcome, ImageError):
            raise outcome
        return outcome
