"""One page for a table of a paper: what was measured, beside what was published, with hours and memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from examples.step_log import StepRecord

PUBLISHED: Final = Path(__file__).with_name("published.json")
MEANINGLESS: Final = "**Weights are random: these figures mean nothing. They show that every step runs.**"
_GIGABYTE: Final = 10**9
_COLUMNS: Final = {"oiou": "oIoU", "miou": "mIoU"} | {f"p@0.{at}": f"P@0.{at}" for at in (5, 6, 7, 8, 9)}


@dataclass(frozen=True, slots=True)
class Measured:
    """A line of the table.

    Attributes:
        row: Name of the row, by which published figures are found.
        title: What stands there.
        split: `refcoco/val`, or as the table names what was asked.
        figures: A part of the JSON of `pseudoris evaluate`: `num_expressions`, and the value of each figure.
    """

    row: str
    title: str
    split: str
    figures: Mapping[str, Any]


def as_markdown(
    title: str,
    table: str,
    measured: Sequence[Measured],
    steps: Sequence[StepRecord],
    *,
    notes: Iterable[str] = (),
    after: Iterable[str] = (),
) -> str:
    """Return the page.

    Args:
        title: Of the page.
        table: Name of the table among the published ones.
        measured: Its lines.
        steps: What each step cost.
        notes: Paragraphs above the table.
        after: Paragraphs below it.
    """
    published = [row for row in json.loads(PUBLISHED.read_text(encoding="utf-8"))["rows"] if row["table"] == table]
    names = list(dict.fromkeys(row["name"] for row in published))
    metrics = {row["name"]: _COLUMNS[row["metric"]] for row in published}
    header = ["row", "split", "expressions", *_COLUMNS.values(), *(f"{name}, {metrics[name]}" for name in names)]
    lines = [_line(each, published, names) for each in measured]
    costs = [[step.name, f"{step.seconds / 3600:.2f}", f"{step.peak_bytes / _GIGABYTE:.1f}"] for step in steps]
    total = sum(step.seconds for step in steps) / 3600
    costs.append(["together", f"{total:.2f}", f"{max((s.peak_bytes for s in steps), default=0) / _GIGABYTE:.1f}"])
    sources = "; ".join(
        f"{name}: {source}" for name, source in {row["name"]: row["source"] for row in published}.items()
    )
    parts = [
        f"# {title}",
        *notes,
        _table(header, lines),
        f"Percent. Published figures: {sources}; – where they could not be had (`examples/{PUBLISHED.name}`).",
        *after,
        _table(["step", "hours", "peak private memory, GB"], costs),
    ]
    return "\n\n".join(parts) + "\n"


def _line(each: Measured, published: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    own = [_percent(each.figures[key]["value"], 100) for key in _COLUMNS]
    # A row of the paper that is not told apart by ours stands beside all of them.
    theirs = {row["name"]: row["splits"].get(each.split) for row in published if row.get("row") in (None, each.row)}
    count = f"{each.figures['num_expressions']:,}"
    return [each.title, each.split, count, *own, *(_percent(theirs.get(name), 1) for name in names)]


def _percent(value: float | None, factor: int) -> str:
    return "–" if value is None else f"{factor * value:.2f}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = ["---", *("--:" for _ in header[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))
