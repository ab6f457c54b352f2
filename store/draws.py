"""Draws of the captioner, counted by what drew them: one definition for `stats` and for the quality page."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True, slots=True)
class DrawKind:
    """What draws have in common.

    Attributes:
        decoder: Its name.
        setting: Its top-k or top-p; None where it has neither.
        crop: Kind of crop.
    """

    decoder: str
    setting: float | None
    crop: str


@dataclass(frozen=True, slots=True)
class DrawCount:
    """How many draws there were, and how many of them gave a text that was kept."""

    drawn: int = 0
    kept: int = 0

    def __add__(self, other: DrawCount) -> DrawCount:
        return DrawCount(self.drawn + other.drawn, self.kept + other.kept)


def count_draws(table: pa.Table) -> dict[DrawKind, DrawCount]:
    """Return the draws of an expressions table by their kind; a text that several draws gave counts for each.

    Args:
        table: With the columns `samples` and `kept`.
    """
    samples = table["samples"].combine_chunks()
    flat = pc.list_flatten(samples)
    columns = {name: pc.struct_field(flat, name) for name in ("decoder", "top_k", "top_p", "crop")}
    kept = pc.take(table["kept"].combine_chunks(), pc.list_parent_indices(samples))
    grouped = pa.table({**columns, "kept": kept}).group_by(list(columns), use_threads=False)
    found: dict[DrawKind, DrawCount] = {}
    for row in grouped.aggregate([("kept", "count"), ("kept", "sum")]).to_pylist():
        setting = row["top_k"] if row["top_k"] is not None else row["top_p"]
        kind = DrawKind(row["decoder"], setting, row["crop"])
        found[kind] = found.get(kind, DrawCount()) + DrawCount(row["kept_count"], row["kept_sum"] or 0)
    return found
