"""The tables of docs/records/reliability.md, from the trials that fault tests and soaks have recorded.

PSEUDORIS_RELIABILITY=trials.jsonl make test-all PYTEST_ARGS=tests/faults
python -m tests.faults.report trials.jsonl
python -m tests.faults.report --soak tests/faults/soak.jsonl
python -m tests.faults.report --trials tests/faults/trials.jsonl
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

HEAD = ("what happened", "how it was made", "times", "images", "outcome")
_LONGEST = 300
SOAK_HEAD = ("fault", "times", "runs", "starts in these", "outcome")


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the rows as a Markdown table, trials of one kind added up."""
    sums: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        total = sums.setdefault((row["fault"], row["how"]), {"bytes_equal": True, "verified": True})
        for name in ("tries", "images", "lost", "doubled"):
            total[name] = total.get(name, 0) + row[name]
        for name in ("bytes_equal", "verified"):
            total[name] = total[name] and row[name]
    lines = ["| " + " | ".join(HEAD) + " |", "|" + " --- |" * len(HEAD)]
    for (fault, how), total in sums.items():
        counts = (f"{total[name]:,}" for name in ("tries", "images"))
        lines.append("| " + " | ".join((fault, how, *counts, _outcome(total))) + " |")
    return "\n".join(lines)


def _outcome(total: Mapping[str, Any]) -> str:
    """Return "equal", or what differs from the same run left alone."""
    found = [f"{total[name]:,} {name.upper()}" for name in ("lost", "doubled") if total[name]]
    found += ["BYTES DIFFER"] * (not total["bytes_equal"]) + ["`verify` FAILS"] * (not total.get("verified", True))
    return ", ".join(found) or "equal"


def read_record(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of JSON lines; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def soak_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a soak's runs as a Markdown table, a row for each kind of fault and one for all."""
    lines = ["| " + " | ".join(SOAK_HEAD) + " |", "| --- |" + " --: |" * (len(SOAK_HEAD) - 2) + " --- |"]
    times = sum((Counter[str](row["struck"]) for row in rows), Counter[str]())
    lines += [
        _soak_row(kind, [row for row in rows if kind in row["struck"]], count) for kind, count in times.most_common()
    ]
    lines.append(_soak_row("all", rows, times.total()))
    return "\n".join(lines)


def _soak_row(kind: str, rows: Sequence[Mapping[str, Any]], times: int) -> str:
    total = {name: sum(row[name] for row in rows) for name in ("starts", "lost", "doubled")}
    total["bytes_equal"] = all(row["bytes_equal"] for row in rows)
    numbers = (f"{number:,}" for number in (times, len(rows), total["starts"]))
    return "| " + " | ".join((kind, *numbers, _outcome(total))) + " |"


def trial_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the trials of `tests.faults.trials` as a Markdown table; times of equal trials are added up."""
    times = Counter[tuple[str, str]]()
    for row in rows:
        outcome = row["outcome"] if row["ok"] else f"FAILED: {' '.join(row['outcome'].split())[:_LONGEST]}"
        times[row["tried"], outcome] += row["times"]
    lines = ["| tried | times | outcome |", "| --- | --: | --- |"]
    return "\n".join([*lines, *(f"| {tried} | {count:,} | {outcome} |" for (tried, outcome), count in times.items())])


def main() -> None:
    tables = {"--soak": soak_table, "--trials": trial_table}
    chosen = next((tables[word] for word in sys.argv[1:] if word in tables), table)
    print(chosen([row for path in sys.argv[1:] if path not in tables for row in read_record(Path(path))]))


if __name__ == "__main__":
    main()
