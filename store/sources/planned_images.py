"""Reads the encoded bytes of planned images from SOURCE. Called by `store`, `pipeline` and `interchange`.

Only the planned version of a file is accepted: another etag, time or size is `changed`. An image's fault is an outcome
of that image; a storage's fault is raised.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final

from pseudoris.files.key_order import file_path
from pseudoris.files.storage import NoBucketError, StoredFile
from pseudoris.primitives.errors import ConfigError, ImageError, RefusedError, TransientError, too_many_bytes
from pseudoris.primitives.threads import map_in_threads
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.run_records import PlanEntry
from pseudoris.store.sources.containers import RowImage, read_rows
from pseudoris.store.sources.root import SourceRoot, resolve_uri

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
        with root.open(path, expected, window_bytes=window_bytes) as stream:
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
        data = stream.read(_end(span[-1]) - start)
        for entry in span:
            image = data[(entry.offset_bytes or 0) - start : _end(entry) - start]
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
