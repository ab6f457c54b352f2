"""Merges a run's parts into a few large Parquet files per table, for readers that are slow with many small ones.

    DEST/expressions/part-00000.parquet … DEST/croissant.json, DEST/_export.json, written last

Rows are in the order of the plan. The same run gives the same bytes: they depend only on the rows and the writer's
settings.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

import pyarrow as pa
import pyarrow.compute as pc

from pseudoris.schemas.errors import ConfigError, TransientError
from pseudoris.schemas.tables import IMAGES, MASKS, SCHEMAS
from pseudoris.store.tables.committed_tables import iter_table
from pseudoris.store.tables.parquet_files import ROW_GROUP_SIZE, open_parquet, open_writer
from pseudoris.training.exports.croissant import CROISSANT_NAME
from pseudoris.training.exports.destination import EXPORT_NAME
from pseudoris.training.exports.export_job import ExportFormat, ExportJob, ExportReport, ExportRequest

if TYPE_CHECKING:
    from pseudoris.store.location import RunLocation

# In memory, before encoding: what one row group, and so a reader of it, holds at once.
_ROW_GROUP_BYTES: Final = 64 * 2**20
_FILE_NAME: Final = re.compile(r"^part-\d{5}\.parquet$")
_ID_COLUMNS: Final = {IMAGES: "image_id", MASKS: "mask_id"}


def _write(job: ExportJob) -> ExportReport:
    """Write the files one after the other, each whole or not at all; then read all of them back."""
    request = job.request
    _make_room(request)
    num_rows = sum(part.rows for receipt in request.receipts for part in receipt.parts.values())
    num_done = 0
    written: dict[str, list[_WrittenFile]] = {}
    left_out = _LeftOut.of(request)
    for table in SCHEMAS:
        written[table] = []
        for file in _write_table(job, table, left_out):
            written[table].append(file)
            num_done += file.rows
            job.on_progress(num_done, num_rows)
    _remove_others(request.destination, written)
    for table, files in written.items():
        _check_table(request, table, files, num_left_out=left_out.rows[table])
    rows = {table: sum(file.rows for file in files) for table, files in written.items()}
    job.describe(rows, left_out.images, {table: (f"{table}/*.parquet", schema) for table, schema in SCHEMAS.items()})
    request.destination.replace(EXPORT_NAME, _description(request, written, left_out))
    return ExportReport(
        rows=rows,
        files={table: len(files) for table, files in written.items()},
        size_bytes=job.size_bytes,
        dropped=left_out.images,
        checked=("every file reads back as written: its bytes, and the ids of its rows in order",),
    )


# The tables as they are, in files of `target_bytes`; a table's last file may be smaller.
PARQUET: Final = ExportFormat(
    "parquet", "the four tables, merged into files of a set size", _write, reads=("target_mb",)
)


@dataclass(frozen=True, slots=True)
class _WrittenFile:
    """A written file, and the digest of its rows' ids in their order."""

    name: str
    rows: int
    size_bytes: int
    sha256: str
    ids_sha256: str


@dataclass(slots=True)
class _LeftOut:
    """The images that are left out: their ids, how many by which rule, and how many rows of each table."""

    ids: pa.Array
    images: Counter[str]
    rows: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, request: ExportRequest) -> Self:
        images = request.excluded_images
        found = [pair for receipt in request.receipts for pair in images.of_shard(receipt).items()] if images else []
        return cls(pa.array([each for each, _ in found], pa.string()), Counter(phrase for _, phrase in found))

    def without(self, part: pa.Table, table: str) -> pa.Table:
        """Return the part without their rows, which are counted."""
        if not len(self.ids):
            return part
        kept = part.filter(pc.invert(pc.is_in(part["image_id"], value_set=self.ids)))
        self.rows[table] += part.num_rows - kept.num_rows
        return kept


@dataclass(slots=True)
class _Ids:
    """Number and digest of a stream of ids."""

    rows: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    def add(self, column: pa.ChunkedArray) -> None:
        self.rows += len(column)
        # Ids have a fixed alphabet without a comma.
        self.digest.update(",".join(map(str, column.to_pylist())).encode() + b",")


def _make_room(request: ExportRequest) -> None:
    """Accept the destination where it holds nothing, or what an earlier export left."""
    destination = request.destination
    has_export = destination.exists(EXPORT_NAME)
    if has_export and not request.is_overwriting:
        raise ConfigError(f"{destination.root} already has an export. Name another place, or give --overwrite.")
    for table in SCHEMAS:
        names = [file.name for file in destination.list(table)]
        if unexpected := [name for name in names if not _FILE_NAME.match(name)]:
            raise ConfigError(
                f"{destination.uri(f'{table}/{unexpected[0]}')} is not a file of an export, but a glob over the "
                "folder would read it too. Name an empty place."
            )
        has_export |= bool(names)
    if not has_export and destination.exists(CROISSANT_NAME):
        raise ConfigError(
            f"{destination.uri(CROISSANT_NAME)} is not a file of an export, but would be replaced. Name an empty place."
        )
    # From here on the export is not whole, and must not look so.
    for name in (EXPORT_NAME, CROISSANT_NAME):
        destination.delete(name)


def _write_table(job: ExportJob, table: str, left_out: _LeftOut) -> Iterator[_WrittenFile]:
    """Write one file after the other; a file ends with the row group that takes it to the target size."""
    groups = _row_groups(job.request, table, left_out)
    number = 0
    group = next(groups, None)
    while group is not None or number == 0:
        name = f"part-{number:05d}.parquet"
        ids, num_bytes = _Ids(), job.size_bytes
        with (
            job.new_file(f"{table}/{name}") as path,
            path.open("wb") as sink,
            open_writer(sink, SCHEMAS[table]) as writer,
        ):
            while group is not None and sink.tell() < job.options.target_bytes:
                writer.write_table(group, row_group_size=max(group.num_rows, 1))
                ids.add(group[_id_column(table)])
                group = next(groups, None)
        sha256 = job.single_files[f"{table}/{name}"]
        yield _WrittenFile(name, ids.rows, job.size_bytes - num_bytes, sha256, ids.digest.hexdigest())
        number += 1


def _row_groups(request: ExportRequest, table: str, left_out: _LeftOut) -> Iterator[pa.Table]:
    """Yield the table's rows in tables of one chunk a column, each a row group: whole parts, up to two bounds."""
    held: list[pa.Table] = []
    num_rows = num_bytes = 0
    for part in _parts(request, table, left_out):
        if held and (num_rows + part.num_rows > ROW_GROUP_SIZE or num_bytes + part.nbytes > _ROW_GROUP_BYTES):
            yield pa.concat_tables(held).combine_chunks()
            held, num_rows, num_bytes = [], 0, 0
        held.append(part)
        num_rows += part.num_rows
        num_bytes += part.nbytes
    if held:
        yield pa.concat_tables(held).combine_chunks()


def _parts(request: ExportRequest, table: str, left_out: _LeftOut) -> Iterator[pa.Table]:
    """Yield the parts that have rows; one of more than a row group in pieces."""
    chosen = (receipt for receipt in request.receipts if receipt.parts[table].rows)
    for found in iter_table(request.run, table, receipts=chosen):
        part = left_out.without(found, table)
        for start in range(0, part.num_rows, ROW_GROUP_SIZE):
            # A copy: pieces of a table still weigh, and are counted, as parts of the whole.
            yield part.slice(start, ROW_GROUP_SIZE).combine_chunks()


def _remove_others(destination: RunLocation, written: dict[str, list[_WrittenFile]]) -> None:
    """Delete what an earlier export wrote beyond this one's files."""
    for table, files in written.items():
        names = {file.name for file in files}
        for found in list(destination.list(table)):
            if _FILE_NAME.match(found.name) and found.name not in names:
                destination.delete(f"{table}/{found.name}")


def _check_table(request: ExportRequest, table: str, files: Sequence[_WrittenFile], *, num_left_out: int) -> None:
    """Read the table back: the same bytes, which hold as many rows as the receipts name, with the same ids in order."""
    due = sum(receipt.parts[table].rows for receipt in request.receipts) - num_left_out
    found = 0
    for file in files:
        path = f"{table}/{file.name}"
        ids = _Ids()
        uri = request.destination.uri(path)
        with request.destination.open_input(path) as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]  # a BinaryIO serves
            parquet = open_parquet(stream, uri)
            column = _id_column(table)
            for group in range(parquet.num_row_groups):
                ids.add(parquet.read_row_group(group, columns=[column], use_threads=False)[column])
        found += ids.rows
        if (digest, ids.rows, ids.digest.hexdigest()) != (file.sha256, file.rows, file.ids_sha256):
            raise TransientError(f"{uri} reads back differently. Run the same command again.")
    if found != due:
        raise TransientError(
            f"{request.destination.uri(table)} has {found} rows, but the receipts name {due}. Run `pseudoris verify`."
        )


def _id_column(table: str) -> str:
    return _ID_COLUMNS.get(table, "image_id")


def _description(request: ExportRequest, written: dict[str, list[_WrittenFile]], left_out: _LeftOut) -> bytes:
    tables = {
        table: [
            {"name": file.name, "rows": file.rows, "size_bytes": file.size_bytes, "sha256": file.sha256}
            for file in files
        ]
        for table, files in written.items()
    }
    generations = sum(receipt.generation > 0 for receipt in request.receipts)
    tree = {
        "format": "parquet",
        "source": request.header.source,
        "num_images": sum(receipt.counts.images for receipt in request.receipts),
        "num_planned_images": request.header.num_images,
        "num_shards": len(request.receipts),
        "num_shards_retried": generations,
        "tables": tables,
        **({"dropped": dict(left_out.images)} if left_out.images else {}),
    }
    return json.dumps(tree, indent=2).encode()
