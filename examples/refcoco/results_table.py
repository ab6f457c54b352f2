"""One table: the student on every split, beside what Pseudo-RIS and PPT published, with hours and memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from examples.step_log import StepRecord

PUBLISHED: Final = Path(__file__).with_name("published.json")
MEANINGLESS: Final = "**Weights are random: these figures mean nothing. They show that every step runs.**"
_GIGABYTE: Final = 10**9
_COLUMNS: Final = {"oiou": "oIoU", "miou": "mIoU", "p50": "P@0.5", "p60": "P@0.6", "p70": "P@0.7"} | {
    "p80": "P@0.8",
    "p90": "P@0.9",
}


def as_markdown(
    figures: Mapping[str, Mapping[str, float]], steps: Sequence[StepRecord], *, notes: Iterable[str] = ()
) -> str:
    """Return the page.

    Args:
        figures: By split, `refcoco/val`: shares in [0, 1] by the names that a training logs, and `expressions`.
        steps: What each step cost.
        notes: Sentences above the table.
    """
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))["rows"]
    titles = [f"{row['name']}, {_COLUMNS[row['metric']]}" for row in published]
    header = ["split", "expressions", *_COLUMNS.values(), *titles]
    rows = [_row(name, found, published) for name, found in sorted(figures.items())]
    costs = [[step.name, f"{step.seconds / 3600:.2f}", f"{step.peak_bytes / _GIGABYTE:.1f}"] for step in steps]
    total = sum(step.seconds for step in steps) / 3600
    costs.append(["together", f"{total:.2f}", f"{max((s.peak_bytes for s in steps), default=0) / _GIGABYTE:.1f}"])
    sources = "; ".join(f"{row['name']}: {row['source']}" for row in published)
    parts = [
        "# RefCOCO, RefCOCO+, RefCOCOg",
        *notes,
        _table(header, rows),
        f"Percent. Published figures: {sources}; – where the file of published figures has none.",
        _table(["step", "hours", "peak private memory, GB"], costs),
    ]
    return "\n\n".join(parts) + "\n"


def _row(name: str, figures: Mapping[str, float], published: Sequence[Mapping[str, Any]]) -> list[str]:
    own = [f"{100 * figures[key]:.2f}" for key in _COLUMNS]
    theirs = (row["splits"].get(name) for row in published)
    return [
        name,
        f"{int(figures['expressions']):,}",
        *own,
        *("–" if each is None else f"{each:.2f}" for each in theirs),
    ]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = ["---", *("--:" for _ in header[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))
