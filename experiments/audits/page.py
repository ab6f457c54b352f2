"""The tables and the picture of docs/audit.md, from the rows of the simulations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from experiments.audits.populations import POPULATIONS
from experiments.audits.simulated_audits import SEARCHED
from experiments.quality.markdown_cells import markdown_table
from pseudoris.audit.figures import ChartRow, interval_chart
from pseudoris.audit.intervals import Interval, exact_share

BEGIN: Final = "<!-- audits: written by `python -m experiments.audits` -->"
END: Final = "<!-- end of audits -->"
_LEAST_SHOWN: Final = 0.9

Row = Mapping[str, Any]


def as_markdown(rows: Sequence[Row]) -> str:
    """Return the tables: accuracy with and without raters' errors, the other questions, and chosen rules."""
    return "\n\n".join([_accuracy(rows), _errors(rows), _others(rows), _searched(rows)])


def coverage_chart(rows: Sequence[Row]) -> str:
    """Return a picture of the coverage of the audit's intervals, and the doubt that their number leaves."""
    found: list[ChartRow] = []
    for title, design, error in (
        ("right verdicts", "audit", 0.0),
        ("5 % wrong verdicts, corrected", "audit, corrected", 0.05),
    ):
        found.append(ChartRow(title, Interval(None, 0.0, 1.0), is_heading=True))
        for row in _chosen(rows, design=design, rater_error=error, question="accuracy"):
            share, audits = row["interval_coverage"], row["audits"]
            interval = Interval(share, *exact_share(share * audits, audits))
            found.append(ChartRow(f"{row['population']}, {row['accuracy']:.2f}", interval))
    title = "Share of simulated audits whose 95 % interval holds the truth"
    return interval_chart(found, title=title, low=_LEAST_SHOWN)


def _chosen(rows: Sequence[Row], **values: object) -> list[Row]:
    return [row for row in rows if all(row[name] == value for name, value in values.items())]


def _accuracy(rows: Sequence[Row]) -> str:
    cells = []
    for row in _chosen(rows, question="accuracy", design="audit", rater_error=0.0):
        same = {"question": "accuracy", "population": row["population"], "accuracy": row["accuracy"]}
        beside = (_chosen(rows, design=design, **same)[0] for design in ("simple random", "simple random, Wald"))
        own = [_coverage(row), f"{row['mean_width_ratio']:.2f}"]
        cells.append([*_named(row), *own, *map(_coverage, beside)])
    header = ["accuracy", "coverage", "width, of simple random sampling's", "coverage of that", "of Wald's"]
    return markdown_table(["population", *header], cells)


def _errors(rows: Sequence[Row]) -> str:
    cells = []
    for row in _chosen(rows, question="accuracy", design="audit, corrected", rater_error=0.05):
        same = {"question": "accuracy", "population": row["population"], "accuracy": row["accuracy"]}
        (naive,) = _chosen(rows, design="audit", rater_error=0.05, **same)
        both = (cell for each in (naive, row) for cell in (_coverage(each), f"{each['bias']:+.3f}"))
        cells.append([*_named(row), *both, f"{row['mean_width_ratio']:.2f}"])
    header = ["accuracy", "naive: coverage", "bias", "corrected: coverage", "bias", "width"]
    return markdown_table(["5 % of wrong verdicts", *header], cells)


def _others(rows: Sequence[Row]) -> str:
    cells = []
    others = [row for row in rows if row["question"] not in ("accuracy", SEARCHED)]
    for question in dict.fromkeys(row["question"] for row in others):
        found = _chosen(others, question=question)
        least = min(row["interval_coverage"] for row in found)
        width = sum(row["mean_width"] for row in found) / len(found)
        bias = max((row["bias"] for row in found), key=abs)
        cells.append([question, _percent(least), f"{width:.2f}", f"{bias:+.3f}"])
    return markdown_table(["question", "least coverage", "mean width", "greatest bias"], cells)


def _searched(rows: Sequence[Row]) -> str:
    cells = []
    for row in _chosen(rows, question=SEARCHED, design="fixed sequence", rater_error=0.0):
        same = {name: row[name] for name in ("question", "population", "accuracy")}
        (best,) = _chosen(rows, design="best look", rater_error=0.0, **same)
        (wrong,) = _chosen(rows, design="fixed sequence", rater_error=0.05, **same)
        kept = "–" if row["kept_of_possible"] is None else f"{row['kept_of_possible']:.2f}"
        own = [_coverage(row), _percent(row["chosen"]), kept, _coverage(best)]
        cells.append([*_named(row), *own, _coverage(wrong), _percent(wrong["chosen"])])
    header = ["accuracy of the run", "reaches it, or none chosen", "a rule is chosen", "keeps, of the possible"]
    wrong_header = "5 % of wrong verdicts, corrected: reaches it, or none chosen"
    return markdown_table([f"`{SEARCHED}`", *header, "best look: reaches it", wrong_header, "a rule is chosen"], cells)


def _named(row: Row) -> list[str]:
    return [POPULATIONS[row["population"]].title, f"{row['accuracy']:.2f}"]


def _coverage(row: Row) -> str:
    return _percent(row["interval_coverage"])


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
