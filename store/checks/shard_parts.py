"""Verifies one committed shard: a pure function of its files, receipt and plan. Called by `verification.py`."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from typing import BinaryIO

import pyarrow as pa

from pseudoris.files.location import RunLocation
from pseudoris.files.parquet_files import DamagedError, open_parquet
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.keep_rule import KeepRule
from pseudoris.schemas.run_records import PlanEntry, Receipt
from pseudoris.schemas.tables import IMAGES, SCHEMAS
from pseudoris.store.checks import content as checks
from pseudoris.store.checks.content import Problem
from pseudoris.store.checks.expressions import expression_problems
from pseudoris.store.runs.receipts import part_path
from pseudoris.store.tables.judged_expressions import SOME_TAU
from pseudoris.store.tables.parts import chosen_schema, read_part


def verify_shard(
    location: RunLocation, receipt: Receipt, planned: list[PlanEntry] | None, *, quick: bool, rule: KeepRule = SOME_TAU
) -> list[Problem]:
    """Return the problems of a committed shard. Only its own files are read.

    Args:
        location: The run's folder.
        receipt: The latest receipt of the shard.
        planned: The plan entries of the shard, by position; None if its part of the plan is lost: ids are not checked.
        quick: Check only sizes, row counts and ids. Otherwise also check digests and every row.
        rule: The keep rule; `pseudoris.store.tables.judged_expressions.rule_of` makes it from a run's header.

    Raises:
        ConfigError: Reading the parts is not permitted, or another version of the package wrote them.
        TransientError: Storage failed, so the shard was not checked.
    """
    files: dict[str, BinaryIO] = {}
    problems: list[Problem] = []
    with ExitStack() as opened:
        for table in SCHEMAS:
            file = _open_part(location, receipt, table, quick=quick)
            if isinstance(file, Problem):
                problems.append(file)
                continue
            files[table] = opened.enter_context(file)
            problems += _footer_problems(receipt, table, file)
        # Rows are not checked if a part is damaged, because problems of single rows would hide the cause.
        return problems or list(_content_problems(receipt, files, planned, quick=quick, rule=rule))


def _open_part(location: RunLocation, receipt: Receipt, table: str, *, quick: bool) -> BinaryIO | Problem:
    """Return the part opened for reading, or the problem of its file. Its bytes are fetched once."""
    part = receipt.parts[table]
    path = part_path(table, part)
    try:
        if quick:
            size = location.size(path)
        else:
            data = location.read_bytes(path)
            size = len(data)
    except FileNotFoundError:
        size = None
    except ConfigError:
        if location.obstacle(path) is None:
            raise
        size = None
    if size is None:
        what = location.obstacle(path)
        found = f"is {what}, not the file that the receipt names. Move it out"
        text = found if what else "is missing, although the receipt names it"
        return Problem(receipt.shard, "part_missing", f"{path} {text}")
    if size != part.size_bytes:
        return Problem(receipt.shard, "part_size", f"{path} has {size} bytes, its receipt says {part.size_bytes}")
    if quick:
        return location.open_input(path)
    if (digest := sha256_hex(data)) != part.sha256:
        detail = f"{path} has sha256 {digest}, its receipt says {part.sha256}"
        return Problem(receipt.shard, "part_sha256", detail)
    return io.BytesIO(data)


def _footer_problems(receipt: Receipt, table: str, file: BinaryIO) -> Iterator[Problem]:
    path, rows = part_path(table, receipt.parts[table]), receipt.parts[table].rows
    try:
        parquet = open_parquet(file, path)
    except DamagedError as error:
        yield Problem(receipt.shard, "part_unreadable", f"{path} cannot be read as Parquet ({error.__cause__})")
        return
    metadata = parquet.schema_arrow.metadata or {}
    if parquet.metadata.num_rows != rows:
        detail = f"{path} has {parquet.metadata.num_rows} rows, its receipt says {rows}"
        yield Problem(receipt.shard, "part_rows", detail)
    if metadata.get(b"pseudoris.table") != table.encode():
        detail = f"{path} holds table {metadata.get(b'pseudoris.table')!r}, not {table!r}"
        yield Problem(receipt.shard, "part_schema", detail)


def _content_problems(
    receipt: Receipt, files: dict[str, BinaryIO], planned: list[PlanEntry] | None, *, quick: bool, rule: KeepRule
) -> Iterator[Problem]:
    shard = receipt.shard
    tables: dict[str, pa.Table] = {}
    try:
        for name in (IMAGES,) if quick else SCHEMAS:
            path = part_path(name, receipt.parts[name])
            tables[name] = read_part(files[name], chosen_schema(name, ("image_id", "key") if quick else None), path)
    except DamagedError as error:
        yield Problem(shard, "part_unreadable", f"{path} cannot be read as Parquet ({error.__cause__})")
        return
    found = [checks.id_problems(tables[IMAGES], planned)] if planned is not None else []
    if not quick:
        found += [check(tables) for check in checks.TABLE_CHECKS]
        found += [checks.count_problems(tables, receipt.counts), expression_problems(tables, rule)]
    for what, details in chain(*found):
        yield from checks.examples(shard, what, details)
