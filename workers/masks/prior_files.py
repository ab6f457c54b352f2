"""Reading an instance table: which of the two formats a file is in, and Parquet; `prior_table` says what they hold."""

from __future__ import annotations

import hashlib
import io

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.errors import ConfigError
from workers.masks.instances import encode_instance
from workers.masks.prior_coco import read_coco_json
from workers.masks.prior_table import InstanceTable

_PARQUET_MAGIC = b"PAR1"
_NAME_COLUMNS = ("image_id", "key", "file_name")
_MASK_COLUMNS = ("segmentation", "box_xyxy_px")
_HASH_BLOCK_BYTES = 2**20


def file_digest(path: str) -> str:
    """Return the sha256 of a prior's file. Raises: ConfigError: it cannot be read."""
    digest = hashlib.sha256()
    try:
        with fsspec.open(path, "rb") as file:
            while block := file.read(_HASH_BLOCK_BYTES):
                digest.update(block)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"prior.path={path} cannot be read: {error}") from error
    return digest.hexdigest()


def read_instance_table(path: str, min_score: float) -> InstanceTable:
    """Return the instances of a Parquet or COCO JSON file whose score is at least `min_score`.

    Raises:
        ConfigError: The file cannot be read or lacks what it needs.
    """
    try:
        with fsspec.open(path, "rb") as file:
            data = file.read()
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"prior.path={path} cannot be read: {error}") from error
    if data.startswith(_PARQUET_MAGIC):
        return _from_parquet(data, path, min_score)
    return read_coco_json(data, path, min_score)


def _from_parquet(data: bytes, path: str, min_score: float) -> InstanceTable:
    try:
        file = pq.ParquetFile(io.BytesIO(data), pre_buffer=False)
        wanted = [name for name in (*_NAME_COLUMNS, *_MASK_COLUMNS, "score") if name in file.schema_arrow.names]
        table = file.read(wanted, use_threads=False).combine_chunks()
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"prior.path={path} is no readable Parquet file: {error}") from error
    name_column = _first_column(table, _NAME_COLUMNS, path)
    _first_column(table, _MASK_COLUMNS, path)
    rows = _rows_above(table, min_score, path)
    names = table[name_column].cast(pa.string()).take(rows).to_pylist()
    if None in names:
        row = rows[names.index(None)].as_py()
        raise ConfigError(f"prior.path={path}: row {row} has no {name_column}; every row must name its image")

    def encode_row(row: int, size: tuple[int, int]) -> str:
        values = {name: table[name][row].as_py() for name in _MASK_COLUMNS if name in table.column_names}
        return encode_instance(
            values.get("segmentation"), values.get("box_xyxy_px"), size, where=f"prior.path={path}: row {row}"
        )

    return InstanceTable(zip(rows.to_pylist(), names, strict=True), encode_row, path=path)


def _first_column(table: pa.Table, wanted: tuple[str, ...], path: str) -> str:
    for name in wanted:
        if name in table.column_names:
            return name
    raise ConfigError(f"prior.path={path} has none of the columns {', '.join(wanted)}: one of them is needed")


def _rows_above(table: pa.Table, min_score: float, path: str) -> pa.Array:
    rows = pa.array(range(table.num_rows), pa.int64())
    if "score" not in table.column_names:
        return rows
    try:
        scores = pc.fill_null(table["score"].cast(pa.float64()), 1.0)
    except pa.ArrowException as error:
        raise ConfigError(f"prior.path={path}: score is {table['score'].type}, a number is needed") from error
    return rows.filter(pc.greater_equal(scores, min_score))
