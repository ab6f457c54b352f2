"""Tables and picture of docs/records/appendix/audits.md, of the rows of both simulations; one leaves the other's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from evidence.experiments.audits.populations import POPULATIONS
from evidence.experiments.audits.simulated_audits import SEARCHED
from evidence.experiments.quality.markdown_cells import render
from pseudoris.audit.intervals import exact_share
from pseudoris.schemas.estimate import Estimate
from pseudoris.store.reports.charts import IntervalRow, interval_chart

BEGIN: Final = "<!-- audits: written by `python -m evidence.experiments.audits` -->"
END: Final = "<!-- end of audits -->"
# Rows of `evidence.experiments.audits.drawn_run`.
DRAWN_RUN: Final = "drawn run"
_LEAST_SHOWN: Final = 0.9

Row = Mapping[str, Any]


def put_rows(path: Path, rows: Sequence[Row], *, is_drawn: bool) -> list[Row]:
    """Put rows, of the drawn run or all others, into a file in the place of earlier ones; return all of it."""
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    others = [row for row in before if (row["question"] == DRAWN_RUN) != is_drawn]
    every = [*others, *rows] if is_drawn else [*rows, *others]
    lines = ",\n".join(json.dumps(row) for row in every)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    return every


def as_markdown(rows: Sequence[Row]) -> str:
    """Return the tables: accuracy with and without raters' errors, the other questions, and chosen rules."""

    def beside(row: Row, **values: object) -> Row:
        return _chosen(rows, **{name: row[name] for name in ("question", "population", "accuracy")}, **values)[0]

    values = {
        "rows": rows,
        "others": [row for row in rows if row["question"] not in ("accuracy", SEARCHED, DRAWN_RUN)],
        "chosen": _chosen,
        "beside": beside,
        "greatest_bias": lambda found: max((row["bias"] for row in found), key=abs),
        "populations": POPULATIONS,
        "searched": SEARCHED,
        "drawn_run": [row for row in rows if row["question"] == DRAWN_RUN],
    }
    return render("audits/tables", values)


def coverage_chart(rows: Sequence[Row]) -> str:
    """Return a picture of the coverage of the audit's intervals, and the doubt that their number leaves."""
    found: list[IntervalRow] = []
    for title, design, error in (
        ("right verdicts", "audit", 0.0),
        ("5 % wrong verdicts, corrected", "audit, corrected", 0.05),
    ):
        found.append(IntervalRow(title))
        for row in _chosen(rows, design=design, rater_error=error, question="accuracy"):
            share, audits = row["interval_coverage"], row["audits"]
            interval = Estimate(share, *exact_share(share * audits, audits))
            found.append(IntervalRow(f"{row['population']}, {row['accuracy']:.2f}", interval))
    title = "Share of simulated audits whose 95 % interval holds the truth"
    return interval_chart(found, title=title, low=_LEAST_SHOWN)


def _chosen(rows: Sequence[Row], **values: object) -> list[Row]:
    return [row for row in rows if all(row[name] == value for name, value in values.items())]
