"""The table of docs/reliability.md, from the trials that fault tests and soaks have recorded.

PSEUDORIS_RELIABILITY=trials.jsonl make test-all PYTEST_ARGS=tests/faults
python -m tests.faults.report trials.jsonl
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

HEAD = ("what happened", "how it was made", "times", "images", "lost", "doubled", "bytes equal", "`verify`")


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
        counts = (f"{total[name]:,}" for name in ("tries", "images", "lost", "doubled"))
        holds = ("yes" if total[name] else "NO" for name in ("bytes_equal", "verified"))
        lines.append("| " + " | ".join((fault, how, *counts, *holds)) + " |")
    return "\n".join(lines)


def main() -> None:
    rows = [json.loads(line) for path in sys.argv[1:] for line in Path(path).read_text().splitlines()]
    print(table(rows))


if __name__ == "__main__":
    main()
