"""docs/quality.md, docs/quality.json and the plots beside them, from the parts' records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.quality.options import Options
from benchmarks.quality.parts import Part, Record, Whole, fingerprint, plot_name
from benchmarks.quality.tables import markdown_table
from benchmarks.quality.templates import frame

PAGE, DATA = "quality.md", "quality.json"

# Of all parts from an empty folder, on two cores that nobody else uses.
LIMIT_MINUTES: Final = 90
# The parts of one run add up to what the command takes, give or take so much.
_SLACK_S: Final = 30.0
# Above a section whose record no run of today would take again.
STALE: Final = "*These figures were measured with other weights or settings than the code has now.*"


def write_report(
    parts: Sequence[Part], records: Mapping[str, Record], folder: Path, options: Options, whole: Whole | None = None
) -> Path:
    """Write the page, its data and its plots for the parts that have a record; return the page's path.

    Args:
        parts: In the order of the page.
        records: By name.
        folder: Where all of it goes.
        options: Of the run that the page tells of; a record that is not of such a run is marked.
        whole: What one command took for all of it; None where none was measured.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = [(part, records[part.name]) for part in parts if part.name in records]
    for part, record in known:
        for name, svg in part.plots(record.result).items():
            (folder / plot_name(part.name, name)).write_text(svg, encoding="utf-8")
    data = json.dumps(tree(known, whole), indent=1, ensure_ascii=False) + "\n"
    (folder / DATA).write_text(data, encoding="utf-8")
    page = folder / PAGE
    page.write_text(markdown(known, options, whole), encoding="utf-8")
    return page


def markdown(known: Sequence[tuple[Part, Record]], options: Options, whole: Whole | None = None) -> str:
    """Return the page."""
    sections = [_section(part, record, options) for part, record in known]
    head, tail = frame({part.name: record.result for part, record in known})
    return "\n\n".join([head, *sections, tail, runtime(known, whole)]) + "\n"


def _section(part: Part, record: Record, options: Options) -> str:
    text = part.section(record.result).strip()
    if record.fingerprint == fingerprint(part, options):
        return text
    heading, _, rest = text.partition("\n")
    return f"{heading}\n\n{STALE}\n{rest}"


def tree(known: Sequence[tuple[Part, Record]], whole: Whole | None = None) -> dict[str, Any]:
    """Return the page's data: the parts' headlines, what each took, and their whole results."""
    headlines: dict[str, Any] = {}
    for part, record in known:
        headlines |= part.headline(record.result)
    took = {part.name: {"wall": record.seconds, "cpu": record.cpu_seconds} for part, record in known}
    said = {} if whole is None else {"whole_run": vars(whole)}
    return {**headlines, **said, "seconds": took, "parts": {part.name: record.result for part, record in known}}


def runtime(known: Sequence[tuple[Part, Record]], whole: Whole | None = None) -> str:
    """Return the section on what the parts take."""
    rows = [[part.name, _minutes(record.seconds), _minutes(record.cpu_seconds)] for part, record in known]
    total = [sum(record.seconds for _, record in known), sum(record.cpu_seconds for _, record in known)]
    rows.append(["**all**", *(_minutes(each) for each in total)])
    text = (
        "Measured on a machine of two cores that others may have shared: wall minutes say how long it took there, CPU "
        "minutes how much was computed. Parts run one after another, each in two processes of one thread; one "
        "that found scenes annotated by an earlier run took less than it would from nothing."
    )
    if whole is not None:
        text += (
            f" One command from an empty folder took {_minutes(whole.seconds)} minutes ({whole.machine}), "
            f"{_minutes(whole.cpu_seconds)} of CPU; {LIMIT_MINUTES} minutes of two cores are the limit, which "
            + ("it kept." if whole.seconds <= 60 * LIMIT_MINUTES else "it did not keep there.")
        )
        if total[0] > whole.seconds + _SLACK_S:
            text += f" Parts that were measured anew since then take longer: all of them together {_minutes(total[0])}."
    quick = " These are of `--quick`." if any(record.fingerprint.get("quick") for _, record in known) else ""
    table = markdown_table(["part", "wall minutes", "CPU minutes"], rows)
    return f"## What it takes\n\n{text}{quick}\n\n{table}"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f}"
