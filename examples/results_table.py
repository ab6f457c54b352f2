"""One page for a table of a paper: what was measured, beside what was published, with hours and memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from examples.step_log import StepRecord

PUBLISHED: Final = Path(__file__).with_name("published.json")
MEANINGLESS: Final = "**Weights are random: these figures mean nothing. They show that every step runs.**"
_GIGABYTE: Final = 10**9
_TITLES: Final = {"oiou": "oIoU", "miou": "mIoU"} | {f"p@0.{at}": f"P@0.{at}" for at in range(3, 10)}
_COLUMNS: Final = ("oiou", "miou", "p@0.5", "p@0.6", "p@0.7", "p@0.8", "p@0.9")


@dataclass(frozen=True, slots=True)
class Measured:
    """A line of the table.

    Attributes:
        row: Name of the row, by which published figures are found.
        title: What stands there.
        split: `refcoco/val`, or as the table names what was asked.
        figures: A part of the JSON of `pseudoris evaluate`: `num_expressions`, and the value of each figure; empty of
            a row that was published and not measured.
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
    columns: Sequence[str] = _COLUMNS,
) -> str:
    """Return the page.

    Args:
        title: Of the page.
        table: Name of the table among the published ones.
        measured: Its lines.
        steps: What each step cost.
        notes: Paragraphs above the table.
        after: Paragraphs below it.
        columns: Figures of ours that are shown.
    """
    published = [row for row in json.loads(PUBLISHED.read_text(encoding="utf-8"))["rows"] if row["table"] == table]
    theirs = list(dict.fromkeys((row["name"], metric) for row in published for metric in row["figures"]))
    titles = (*(_TITLES[key] for key in columns), *(f"{name}, {_TITLES[metric]}" for name, metric in theirs))
    lines = [_line(each, published, theirs, columns) for each in (*measured, *_others(measured, published))]
    sources = "; ".join(
        f"{name}: {source}" for name, source in {row["name"]: row["source"] for row in published}.items()
    )
    parts = [
        f"# {title}",
        *notes,
        as_table(["row", "split", "expressions", *titles], lines),
        f"Percent. Published figures: {sources}; – where they could not be had (`examples/{PUBLISHED.name}`).",
        *after,
        costs_table(steps),
    ]
    return "\n\n".join(parts) + "\n"


def costs_table(steps: Sequence[StepRecord]) -> str:
    """Return what each step cost, and all together."""
    total = StepRecord("together", sum(s.seconds for s in steps), max((s.peak_bytes for s in steps), default=0))
    costs = ([s.name, f"{s.seconds / 3600:.2f}", f"{s.peak_bytes / _GIGABYTE:.1f}"] for s in (*steps, total))
    return as_table(["step", "hours", "peak private memory, GB"], costs)


def as_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table, its first column aligned to the left."""
    rule = ["---", *("--:" for _ in header[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))


def _others(measured: Sequence[Measured], published: Sequence[Mapping[str, Any]]) -> Iterator[Measured]:
    """Rows that were published, have a title of their own, and were not measured."""
    for row in published:
        if "title" in row and row["row"] not in {each.row for each in measured}:
            splits = dict.fromkeys(split for figures in row["figures"].values() for split in figures)
            yield from (Measured(row["row"], row["title"], split, {}) for split in splits)


def _line(
    each: Measured, published: Sequence[Mapping[str, Any]], theirs: Sequence[tuple[str, str]], columns: Sequence[str]
) -> list[str]:
    own = [_percent(each.figures[key]["value"] if each.figures else None, 100) for key in columns]
    # A row of the paper that is not told apart by ours stands beside all of them.
    beside = {
        (row["name"], metric): figures.get(each.split)
        for row in published
        if row.get("row") in (None, each.row)
        for metric, figures in row["figures"].items()
    }
    count = f"{each.figures['num_expressions']:,}" if each.figures else "–"
    return [each.title, each.split, count, *own, *(_percent(beside.get(key), 1) for key in theirs)]


def _percent(value: float | None, factor: int) -> str:
    return "–" if value is None else f"{factor * value:.2f}"
