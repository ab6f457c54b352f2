"""Exports a run's parts as a few large Parquet files per table, for readers that are slow with many small ones.

    DEST/expressions/part-00000.parquet … DEST/croissant.json

Listed in `EXPORTS` for `cli/export`. Rows are in the order of the plan. The same run gives the same bytes: they depend
only on the rows and the writer's settings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from pseudoris.files.parquet_files import ROW_GROUP_SIZE
from pseudoris.interchange.exports.export_job import ExportFormat, ExportJob, sentences_of
from pseudoris.interchange.exports.export_options import ExportReport, ExportRequest
from pseudoris.primitives.errors import TransientError
from pseudoris.schemas.shard import ExpressionRecord
from pseudoris.schemas.tables import EXPRESSIONS, IMAGES, SCHEMAS

_OF: Final = "Text that the row says in other words; all other columns are of that text. Null of the run's own texts."
_REWORDING_OF: Final = pa.field("rewording_of", pa.string(), metadata={"doc": _OF})
# A row group has at most this many bytes in memory before encoding, so a reader holds no more.
_ROW_GROUP_BYTES: Final = 64 * 2**20


def _write(job: ExportJob) -> ExportReport:
    """Write the files of a table one after the other, each whole or not at all."""
    request = job.request
    job.claim(*SCHEMAS)
    num_rows = sum(part.rows for receipt in request.run.receipts for part in receipt.parts.values())
    images = request.excluded_images
    found = [pair for shard in request.run.shards() for pair in images.of_shard(shard).items()] if images else []
    others = _in_other_splits(request)
    dropped = Counter(phrase for each, phrase in found if each not in others)
    excluded = pa.array([*others, *(each for each, _ in found if each not in others)], pa.string())
    num_left_out = Counter[str]()
    num_done, schemas = 0, dict(SCHEMAS)
    if request.options.rewording:
        schemas[EXPRESSIONS] = SCHEMAS[EXPRESSIONS].append(_REWORDING_OF)
    written: dict[str, list[dict[str, Any]]] = {}
    for table in schemas:
        written[table] = []
        groups = _row_groups(_parts(job, table, excluded, num_left_out))
        for path, rows, size_bytes in job.parquet_files(f"{table}/part", schemas[table], groups):
            facts = {"rows": rows, "size_bytes": size_bytes, "sha256": job.single_files[path]}
            written[table].append({"name": path.removeprefix(f"{table}/"), **facts})
            num_done += rows
            job.on_progress(num_done, num_rows)
    num_written = {table: sum(file["rows"] for file in files) for table, files in written.items()}
    for table, rows in num_written.items():
        named = sum(receipt.parts[table].rows for receipt in request.run.receipts) - num_left_out[table]
        if rows != named:
            uri = request.destination.uri(table)
            raise TransientError(f"{uri} has {rows} rows, but the receipts name {named}. Run `pseudoris verify`.")
    tables = {table: (f"{table}/*.parquet", schema) for table, schema in schemas.items()}
    report = ExportReport(
        rows=num_written,
        files={table: len(files) for table, files in written.items()},
        size_bytes=job.size_bytes,
        dropped=dropped,
        notes=images.unmatched(dropped, request.exclusions),
        checked=("every table has as many rows as the receipts name", job.check_stored()),
    )
    job.describe(report, tables)
    receipts = request.run.receipts
    job.mark_whole(
        num_images=sum(receipt.counts.images for receipt in receipts),
        num_planned_images=request.run.header.num_images,
        num_shards=len(receipts),
        num_shards_retried=sum(receipt.generation > 0 for receipt in receipts),
        tables=written,
        **({"dropped": dict(dropped)} if dropped else {}),
    )
    return report


def _in_other_splits(request: ExportRequest) -> set[str]:
    """Return the images of other splits than the one that was named; none without one."""
    if not request.has_splits or request.options.split is None:
        return set()
    parts = (shard.table(IMAGES, ("image_id", "split")).to_pylist() for shard in request.run.shards())
    return {row["image_id"] for rows in parts for row in rows if row["split"] not in request.splits}


PARQUET: Final = ExportFormat(
    "parquet", "the four tables, merged into files of a set size", _write, reads=("target_mb",)
)


def _row_groups(parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield the rows of parts in tables of one chunk a column, each a row group: whole parts, up to two bounds."""
    held: list[pa.Table] = []
    num_rows = num_bytes = 0
    for part in parts:
        if held and (num_rows + part.num_rows > ROW_GROUP_SIZE or num_bytes + part.nbytes > _ROW_GROUP_BYTES):
            yield _taken(held)
            num_rows = num_bytes = 0
        held.append(part)
        num_rows += part.num_rows
        num_bytes += part.nbytes
    if held:
        yield _taken(held)


def _taken(held: list[pa.Table]) -> pa.Table:
    """Return tables as one, and release them, so that memory holds a row group once."""
    whole = pa.concat_tables(held).combine_chunks()
    held.clear()
    return whole


def _parts(job: ExportJob, table: str, excluded: pa.Array, num_left_out: Counter[str]) -> Iterator[pa.Table]:
    """Yield the parts that have rows, with the rows of further sentences behind each; a large part in pieces.

    Rows of the images `excluded`, by id, are left out, and counted in `num_left_out` by table.
    """
    number = job.options.rewording if table == EXPRESSIONS else 0
    for shard in job.request.run.shards():
        if not shard.receipt.parts[table].rows:
            continue
        found = shard.table(table)
        own = found
        if len(excluded):
            own = found.filter(pc.invert(pc.is_in(found["image_id"], value_set=excluded)))
        part = own
        if number:
            rows = own.select(["image_id", "target_mask_ids", "text", "source", "kept"]).to_pylist()
            said: list[tuple[str, ...]] = []
            for image_id, of_image in groupby(rows, key=lambda row: row.pop("image_id")):
                said += sentences_of(image_id, [ExpressionRecord(**row, samples=()) for row in of_image], number)
            part = own.take(pa.array([place for place, each in enumerate(said) for _ in each], pa.int64()))
            texts = pa.array([text for each in said for text in each], pa.string())
            origins = pc.if_else(pc.equal(part["text"], texts), pa.scalar(None, pa.string()), part["text"])
            at = part.schema.get_field_index("text")
            part = part.set_column(at, part.schema.field(at), texts).append_column(_REWORDING_OF, origins)
        job.num_further += part.num_rows - own.num_rows
        # Rewordings add rows that no receipt counts, so the number of rows left out may be negative.
        num_left_out[table] += found.num_rows - part.num_rows
        # The shard is released here, so that memory holds it once while its rows are written.
        del found, own
        for start in range(0, part.num_rows, ROW_GROUP_SIZE):
            # The slice is copied, because an uncopied slice counts with the bytes of its whole table.
            yield part.slice(start, ROW_GROUP_SIZE).combine_chunks()
