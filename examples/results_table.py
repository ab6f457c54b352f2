"""One page for a table of a paper: what was measured, beside what was published, with hours and memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from evidence.experiments.quality.markdown_cells import markdown_table
from examples.step_log import StepRecord
from pseudoris.training.metrics import PRECISION_AT

PUBLISHED: Final = Path(__file__).with_name("published.json")
_GIGABYTE: Final = 10**9
_ALL: Final = "all"
_SEVERAL: Final = "group"
PARAMETERS: Final = "parameters"
_TITLES: Final = {
    **{"oiou": "oIoU", "miou": "mIoU", PARAMETERS: "trained parameters, M"},
    **{f"p@{at}": f"P@{at}" for at in PRECISION_AT},
}
_COLUMNS: Final = ("oiou", "miou", "p@0.5", "p@0.6", "p@0.7", "p@0.8", "p@0.9")


@dataclass(frozen=True, slots=True)
class Measured:
    """A line of the table.

    Attributes:
        row: Name of the row, by which published figures are found.
        title: What stands there.
        split: `refcoco/val`, or as the table names what was asked.
        figures: A part of the JSON of `pseudoris evaluate`: `num_expressions`, and value, low and high of each figure;
            empty of a row that was published and not measured. `parameters` are millions that were trained.
    """

    row: str
    title: str
    split: str
    figures: Mapping[str, Any]


def read_measured(
    titles: Mapping[str, str], results: Mapping[str, Callable[[str], Path]], *, has_whole: bool = False
) -> Iterator[Measured]:
    """Yield a line a split of each row of `titles`; `results` tells of each truth where a row's `evaluate --json` lies.

    With the whole, all splits together are a line too, and their expressions of several instances.
    """
    for row, title in titles.items():
        for truth, place in results.items():
            for part in json.loads(place(row).read_text(encoding="utf-8"))["parts"]:
                is_whole, asked = part["split"] == _ALL, f"{truth}/{part['split']}"
                if part["kind"] == _ALL and (has_whole or not is_whole):
                    yield Measured(row, title, asked, part)
                elif part["kind"] == _SEVERAL and has_whole and is_whole:
                    yield Measured(row, title, f"{asked}, several instances", part)


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
    """Return the page: rows in the paper's order, those that it does not have below.

    Args:
        title: Of the page.
        table: Name of the table among the published ones.
        measured: Its lines.
        steps: What each step cost.
        notes: Paragraphs above the table.
        after: Paragraphs below it.
        columns: Figures of ours that are shown.
    """
    published = [of for of in json.loads(PUBLISHED.read_text(encoding="utf-8"))["tables"] if of["table"] == table]
    theirs = [(of["name"], metric, splits) for of in published for metric, splits in of["figures"].items()]
    titles = (*(_TITLES[key] for key in columns), *(f"{name}, {_TITLES[metric]}" for name, metric, _ in theirs))
    order = _order(published)
    rows = sorted((*measured, *_others(measured, published)), key=lambda each: order.get(each.row, len(order)))
    lines = [_line(each, [of for *_, of in theirs], columns) for each in rows]
    sources = "; ".join(f"{of['name']}: {of['source']}" for of in published)
    parts = [
        f"# {title}",
        *notes,
        markdown_table(["row", "split", "expressions", *titles], lines),
        f"Percent, with 95 % intervals over images. Published figures: {sources}; – where they could not be had "
        f"(`examples/{PUBLISHED.name}`).",
        *after,
        costs_table(steps),
    ]
    return "\n\n".join(parts) + "\n"


def costs_table(steps: Sequence[StepRecord]) -> str:
    """Return what each step cost, and all together."""
    total = StepRecord("together", sum(s.seconds for s in steps), max((s.peak_bytes for s in steps), default=0))
    costs = ([s.name, f"{s.seconds / 3600:.2f}", f"{s.peak_bytes / _GIGABYTE:.1f}"] for s in (*steps, total))
    return markdown_table(["step", "hours", "peak private memory, GB"], costs)


def _order(published: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the place of each row that was published by its name: of titles, else of figures."""
    by_row = [of for source in published for splits in source["figures"].values() for of in splits.values()]
    named = [*(source.get("titles", {}) for source in published), *(of for of in by_row if isinstance(of, Mapping))]
    return {row: place for place, row in enumerate(dict.fromkeys(row for rows in named for row in rows))}


def _others(measured: Sequence[Measured], published: Sequence[Mapping[str, Any]]) -> Iterator[Measured]:
    """Rows that were published, have a title of their own, and were not measured."""
    titles = [
        (row, title, source["figures"]) for source in published for row, title in source.get("titles", {}).items()
    ]
    for row, title, figures in titles:
        if row not in {each.row for each in measured}:
            splits = dict.fromkeys(split for of in figures.values() for split, by_row in of.items() if row in by_row)
            yield from (Measured(row, title, split, {}) for split in splits)


def _line(each: Measured, theirs: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    own = [_cell(each.figures.get(key, {}), 1 if key == PARAMETERS else 100) for key in columns]
    beside = (splits.get(each.split) for splits in theirs)
    # A figure that does not tell our rows apart stands beside all of them.
    of_row = (figure.get(each.row) if isinstance(figure, Mapping) else figure for figure in beside)
    count = f"{each.figures['num_expressions']:,}" if each.figures else "–"
    return [each.title, each.split, count, *own, *(_cell({"value": figure}, 1) for figure in of_row)]


def _cell(figure: Mapping[str, float | None], factor: int) -> str:
    value, low, high = (figure.get(name) for name in ("value", "low", "high"))
    interval = "" if low is None or high is None else f" [{factor * low:.2f}, {factor * high:.2f}]"
    return "–" if value is None else f"{factor * value:.2f}{interval}"
