from __future__ import annotations

import io
import random

import pyarrow as pa
import pytest

from pseudoris.schemas.errors import TransientError
from pseudoris.schemas.ids import sha256_hex
from pseudoris.store.tables.parquet_files import open_parquet, parquet_bytes

# The bytes belong to this version of pyarrow, whose name stands in every footer.
GOLDEN_PYARROW = "26.0.1"
GOLDEN_SHA256 = "41a2e01a19457f0acf78e7c89f49c2f552d2030d6fb3591c9edaca4eb9731bcf"

TABLE = pa.Table.from_pylist(
    [
        {"id": "a", "score": 0.5, "box": [1, 2]},
        {"id": "b", "score": None, "box": []},
        {"id": "b", "score": -1.0, "box": [3]},
    ],
    schema=pa.schema(
        [
            pa.field("id", pa.string(), nullable=False, metadata={"doc": "An id."}),
            pa.field("score", pa.float64()),
            pa.field("box", pa.list_(pa.field("element", pa.int32()))),
        ],
        metadata={"pseudoris.version": "1"},
    ),
)


@pytest.mark.skipif(pa.__version__ != GOLDEN_PYARROW, reason=f"the golden bytes are those of pyarrow {GOLDEN_PYARROW}")
def test_a_fixed_table_has_the_bytes_it_always_had():
    assert sha256_hex(parquet_bytes([TABLE], TABLE.schema)) == GOLDEN_SHA256


def test_any_damage_of_a_footer_is_told_as_such():
    whole = parquet_bytes([pa.table({"naïve": pa.array([1, 2])})], pa.schema([("naïve", pa.int64())]))
    length = int.from_bytes(whole[-8:-4], "little") + 8
    changes = random.Random(0)
    num_damaged = 0
    for _ in range(300):
        data = bytearray(whole)
        data[-changes.randrange(9, length)] = changes.randrange(256)
        try:
            open_parquet(io.BytesIO(data), "part")
        except TransientError as error:
            num_damaged += str(error).startswith("part cannot be read as Parquet")
    assert num_damaged > 50
