from __future__ import annotations

import re
from collections.abc import Callable

import pyarrow as pa
import pytest

from pseudoris.schemas.ids import mask_id
from pseudoris.schemas.run_records import ShardCounts
from pseudoris.schemas.tables import SCHEMAS
from pseudoris.store.checks import content as checks
from pseudoris.store.tables.shard_tables import shard_tables, table_counts
from tests.store.builders import make_entries, make_shard

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


def setting(row: int, **values) -> Edit:
    return lambda rows: rows[row].update(values)


CORRUPTIONS = {
    "an image is gone": ("images", lambda rows: rows.pop(2), "ids", "is planned, but missing"),
    "an image stands twice": ("images", lambda rows: rows.insert(2, rows[2]), "ids", "not planned, or is repeated"),
    "images are swapped": ("images", lambda rows: rows.reverse(), "ids", "not in the order of the plan"),
    "a key is another": ("images", setting(2, key="other.png"), "ids", r"\(other.png\) is not planned"),
    "annotated without masks": (
        "images",
        setting(2, status="annotated"),
        "image_status",
        "'annotated', 0 failures",
    ),
    "empty with masks": ("images", setting(0, status="empty"), "image_status", "'empty', 0 failures and masks"),
    "quarantined without a failure": (
        "images",
        setting(2, status="quarantined"),
        "image_status",
        "'quarantined', 0 failures",
    ),
    "a status of no kind": ("images", setting(0, status="done"), "image_status", "allowed are annotated, empty"),
    "a decoded image without a size": ("images", setting(2, height=None), "image_fields", "has no height"),
    "embedded bytes of another image": ("images", setting(0, bytes=b"x"), "image_fields", "have another sha256"),
    "a failure is gone": ("failures", lambda rows: rows.pop(), "image_status", "'quarantined', 0 failures"),
    "a failure stands twice": ("failures", lambda rows: rows.append(rows[0]), "failure_image", "has 2 failures"),
    "a failure of a sound image": (
        "failures",
        setting(0, image_id=ANNOTATED),
        "image_status",
        "1 failures and masks",
    ),
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
    "a mask of another size": (
        "masks",
        lambda rows: rows[0]["segmentation"].update(size=[20, 12]),
        "mask_rle",
        r"has size \[20, 12\], its image \[12, 20\]",
    ),
    "runs that do not fill the image": (
        "masks",
        lambda rows: rows[0]["segmentation"].update(counts="11"),
        "mask_rle",
        "cover 2 pixels",
    ),
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


def test_a_shard_of_several_broken_rows_names_a_few_and_counts_the_rest():
    problems = checks.examples(3, "mask_area", (f"mask {n}" for n in range(40)))
    assert [problem.detail for problem in problems] == [*(f"mask {n}" for n in range(5)), "and 35 more"]
    assert {problem.shard for problem in problems} == {3}
