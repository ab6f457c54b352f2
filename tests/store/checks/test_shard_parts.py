from __future__ import annotations

import re
from collections.abc import Callable

import pyarrow as pa
import pytest

from pseudoris.files.parquet_files import parquet_bytes
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.ids import mask_id, sha256_hex
from pseudoris.schemas.run_records import PartRecord, ShardCounts
from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.checks import content as checks
from pseudoris.store.checks.shard_parts import verify_shard
from pseudoris.store.runs.plan import read_shard_plan
from pseudoris.store.runs.receipts import part_path
from pseudoris.store.tables.open_run import CommittedShard
from pseudoris.store.tables.shard_tables import shard_tables, table_bytes, table_counts
from tests.store.builders import commit, make_entries, make_shard, setting, start_run, whats


@pytest.fixture
def run(location):
    """Return the location, a receipt and the plan of its shard."""
    header = start_run(location)
    return location, commit(location, header, 1)[0], read_shard_plan(location, header, 1)


def forged(location, receipt, table: str, data: bytes, rows: int | None = None):
    """Return the receipt as if it had been written for `data`, so that only what it says can give it away."""
    name = f"shard-00000001.g0-{sha256_hex(data)[:8]}.parquet"
    rows = receipt.parts[table].rows if rows is None else rows
    part = PartRecord(name=name, rows=rows, size_bytes=len(data), sha256=sha256_hex(data))
    location.put_part(part_path(table, part), data)
    return receipt.model_copy(update={"parts": {**receipt.parts, table: part}})


@pytest.mark.parametrize("table", SCHEMAS)
def test_a_byte_that_changed_anywhere_is_found(run, table):
    location, receipt, planned = run
    path = part_path(table, receipt.parts[table])
    original = location.read_bytes(path)
    for at in (0, len(original) // 3, len(original) - 1):
        data = bytearray(original)
        data[at] ^= 0x40
        location.replace(path, bytes(data))
        problems = verify_shard(location, receipt, planned, quick=False)
        assert whats(problems) == ["part_sha256"]


@pytest.mark.parametrize("quick", [True, False])
def test_every_missing_part_is_found(run, quick):
    location, receipt, planned = run
    for table in ("images", "failures"):
        location.delete(part_path(table, receipt.parts[table]))
    assert whats(verify_shard(location, receipt, planned, quick=quick)) == ["part_missing", "part_missing"]


@pytest.mark.parametrize("quick", [True, False])
def test_another_number_of_rows_is_found(run, quick):
    location, receipt, planned = run
    data = table_bytes(CommittedShard(location, receipt).table("masks").slice(1))
    problems = verify_shard(location, forged(location, receipt, "masks", data), planned, quick=quick)
    assert whats(problems) == ["part_rows"]


@pytest.mark.parametrize("quick", [True, False])
def test_ids_that_are_not_the_plans_are_found(run, quick):
    location, receipt, planned = run
    images = CommittedShard(location, receipt).table("images")
    data = table_bytes(images.take(list(reversed(range(images.num_rows)))))
    problems = verify_shard(location, forged(location, receipt, "images", data), planned, quick=quick)
    assert problems[0].what == "ids"
    assert verify_shard(location, receipt, planned[:-1], quick=quick)[0].what == "ids"


def of_other_types(masks: pa.Table) -> bytes:
    other = masks.set_column(masks.schema.get_field_index("box_xyxy_px"), "box_xyxy_px", pa.array(["box"] * len(masks)))
    return parquet_bytes([other], other.schema)


@pytest.mark.parametrize(
    ("made_of", "quick", "what"),
    [
        (lambda shard: table_bytes(shard.table("failures")), True, "part_schema"),
        (lambda shard: b"not a table", False, "part_unreadable"),
        (lambda shard: of_other_types(shard.table("masks")), False, "part_unreadable"),
    ],
    ids=["another table", "no Parquet", "columns of other types"],
)
def test_what_is_no_such_table_is_found(run, made_of, quick, what):
    location, receipt, planned = run
    data, rows = made_of(CommittedShard(location, receipt)), receipt.parts["failures" if quick else "masks"].rows
    problems = verify_shard(location, forged(location, receipt, "masks", data, rows), planned, quick=quick)
    assert whats(problems) == [what]


def test_what_the_rows_say_is_checked_unless_it_shall_be_quick(run):
    location, receipt, planned = run
    rows = CommittedShard(location, receipt).table("masks").to_pylist()
    rows[0]["area_px"] += 1
    data = table_bytes(pa.Table.from_pylist(rows, schema=SCHEMAS["masks"]))
    wrong = forged(location, receipt, "masks", data)
    assert whats(verify_shard(location, wrong, planned, quick=False)) == ["mask_area"]
    assert verify_shard(location, wrong, planned, quick=True) == []


def test_a_part_of_a_later_version_is_no_damage(run):
    location, receipt, planned = run
    masks = CommittedShard(location, receipt).table("masks")
    schema = masks.schema.with_metadata({**masks.schema.metadata, b"pseudoris.version": b"9"})
    data = parquet_bytes([masks.replace_schema_metadata(schema.metadata)], schema)
    with pytest.raises(ConfigError, match="is of version 9"):
        verify_shard(location, forged(location, receipt, "masks", data), planned, quick=False)


ENTRIES = make_entries(num_shards=1, per_shard=8)
SHARD = make_shard(ENTRIES)
COUNTS = ShardCounts(**table_counts(shard_tables(SHARD, embed_images=True)))
ANNOTATED, EMPTY, QUARANTINED = (ENTRIES[n].image_id for n in (0, 2, 3))

Edit = Callable[[list[dict]], object]


def tables_with(table: str, edit: Edit) -> dict[str, pa.Table]:
    """Return the tables of a sound shard with the rows of one of them changed in place."""
    tables = shard_tables(SHARD, embed_images=True)
    rows = tables[table].to_pylist()
    edit(rows)
    return {**tables, table: pa.Table.from_pylist(rows, schema=SCHEMAS[table])}


def all_problems(tables: dict[str, pa.Table]) -> list[checks.Problem]:
    found = [checks.id_problems(tables["images"], ENTRIES), *(check(tables) for check in checks.TABLE_CHECKS)]
    found.append(checks.count_problems(tables, COUNTS))
    return [problem for each in found for what, details in each for problem in checks.examples(0, what, details)]


def encoding(**values) -> Edit:
    return lambda rows: rows[0]["segmentation"].update(values)


CORRUPTIONS = {
    "an image is gone": ("images", lambda rows: rows.pop(2), "ids", "is planned, but missing"),
    "an image stands twice": ("images", lambda rows: rows.insert(2, rows[2]), "ids", "not planned, or is repeated"),
    "images are swapped": ("images", lambda rows: rows.reverse(), "ids", "not in the order of the plan"),
    "a key is another": ("images", setting(2, key="other.png"), "ids", r"\(other.png\) is not planned"),
    "annotated without masks": ("images", setting(2, status="annotated"), "image_status", "'annotated', 0 failures"),
    "empty with masks": ("images", setting(0, status="empty"), "image_status", "'empty', 0 failures and masks"),
    "a status of no kind": ("images", setting(0, status="done"), "image_status", "allowed are annotated, empty"),
    "a decoded image without a size": ("images", setting(2, height=None), "image_fields", "has no height"),
    "embedded bytes of another image": ("images", setting(0, bytes=b"x"), "image_fields", "have another sha256"),
    "a failure is gone": ("failures", lambda rows: rows.pop(), "image_status", "'quarantined', 0 failures"),
    "a failure stands twice": ("failures", lambda rows: rows.append(rows[0]), "failure_image", "has 2 failures"),
    "a failure of a sound image": ("failures", setting(0, image_id=ANNOTATED), "image_status", "1 failures and masks"),
    "a failure of no image": ("failures", setting(0, image_id="f" * 16), "failure_image", "image f{16} has 1"),
    "a reason of no kind": ("failures", setting(0, reason="gremlins"), "failure_reason", "'gremlins'"),
    "a mask of a quarantined image": (
        "masks",
        setting(0, image_id=QUARANTINED, mask_id=mask_id(QUARANTINED, 0)),
        "image_status",
        "'quarantined', 1 failures and masks",
    ),
    "a mask of no image": ("masks", setting(0, image_id="f" * 16), "mask_image", "not in the shard"),
    "a mask stands twice": ("masks", lambda rows: rows.insert(0, rows[0]), "mask_id", "is repeated"),
    "a mask named after another image": ("masks", setting(0, mask_id=mask_id(EMPTY, 0)), "mask_id", "not named after"),
    "a mask of another size": ("masks", encoding(size=[20, 12]), "mask_rle", r"has size \[20, 12\], its image \[12"),
    "runs that do not fill the image": ("masks", encoding(counts="11"), "mask_rle", "cover 2 pixels"),
    "an area off by one": ("masks", setting(0, area_px=30), "mask_area", "says 30 pixels and decodes to 29"),
    "a mask of no pixel": (
        "masks",
        lambda rows: rows[0].update(area_px=0, segmentation={"size": [12, 20], "counts": "`7"}, box_xyxy_px=[0] * 4),
        "mask_area",
        "says 0 pixels",
    ),
    "a box that is not tight": ("masks", setting(0, box_xyxy_px=[3, 2, 9, 8]), "mask_box", r"says box \[3, 2, 9, 8\]"),
    "masks are swapped": ("masks", lambda rows: rows.reverse(), "order", "rows of masks"),
    "expressions are swapped": ("expressions", lambda rows: rows.reverse(), "order", "rows of expressions"),
    "a kept row is gone": ("expressions", lambda rows: rows.pop(0), "counts", "kept: the receipt says"),
}


def test_a_sound_shard_has_no_problem():
    assert all_problems(shard_tables(SHARD, embed_images=True)) == []


@pytest.mark.parametrize(("table", "edit", "what", "detail"), CORRUPTIONS.values(), ids=CORRUPTIONS.keys())
def test_every_corruption_is_found_and_named(table, edit, what, detail):
    problems = all_problems(tables_with(table, edit))
    assert re.search(detail, "\n".join(problem.detail for problem in problems if problem.what == what))
