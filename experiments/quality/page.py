"""docs/quality.md, its appendix, docs/quality.json and the plots beside them, from the parts' records.

The texts above and below the parts are templates, `texts/*.md.j2`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import jinja2

from experiments.quality.markdown_cells import (
    TRIPLE,
    cell,
    is_reversed_beside,
    markdown_table,
    triple,
    triple_of_means,
    value,
)
from experiments.quality.parts import Options, Part, Record, Result, WholeRun, fingerprint, plot_name, record_path

PAGE, APPENDIX, DATA = "quality.md", "quality-appendix.md", "quality.json"
# Above a section whose record no run of today would take again.
STALE: Final = "*These figures were measured with other weights or settings than the code has now.*"
# Of all parts from an empty folder, on two cores that nobody else uses.
LIMIT_MINUTES: Final = 90
# The parts of one run add up to what the command takes, give or take so much.
_SLACK_S: Final = 30.0
# Aimed at: accuracy, yield, coverage, of one rule.
_GOAL: Final = (0.95, 2.0, 0.8)
_RULE: Final = "all+weighing composer"


def write_report(
    parts: Sequence[Part],
    records: Mapping[str, Record],
    folder: Path,
    options: Options,
    *,
    kept_in: Path,
    whole: WholeRun | None = None,
) -> Path:
    """Write the page, its appendix, its data and its plots for the parts that have a record; return the page's path.

    Args:
        parts: In the order of the page.
        records: By name.
        folder: Where all of it goes.
        options: Of the run that the page tells of; a record that is not of such a run is marked.
        kept_in: Where the records are files; the data links them.
        whole: What one command took for all of it; None if none was measured.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = [(part, records[part.name]) for part in parts if part.name in records]
    for part, record in known:
        for name, svg in part.plots(record.result).items():
            (folder / plot_name(part.name, name)).write_text(svg, encoding="utf-8")
    links = {part.name: Path(os.path.relpath(record_path(kept_in, part.name), folder)).as_posix() for part, _ in known}
    data = json.dumps(tree(known, links, whole), indent=1, ensure_ascii=False) + "\n"
    (folder / DATA).write_text(data, encoding="utf-8")
    page = folder / PAGE
    page.write_text(markdown(known, options), encoding="utf-8")
    (folder / APPENDIX).write_text(appendix(known, options, whole), encoding="utf-8")
    return page


def markdown(known: Sequence[tuple[Part, Record]], options: Options) -> str:
    """Return the page."""
    sections = [_section(part, record, options) for part, record in known if not part.is_appendix]
    head, tail = frame({part.name: record.result for part, record in known})
    return "\n\n".join([head, *sections, tail]) + "\n"


def appendix(known: Sequence[tuple[Part, Record]], options: Options, whole: WholeRun | None = None) -> str:
    """Return the page of the other parts, and of what all of them take."""
    sections = [_section(part, record, options) for part, record in known if part.is_appendix]
    return "\n\n".join([render("appendix", {}), *sections, runtime(known, whole)]) + "\n"


def _section(part: Part, record: Record, options: Options) -> str:
    text = part.section(record.result).strip()
    if record.fingerprint == fingerprint(part, options):
        return text
    heading, _, rest = text.partition("\n")
    return f"{heading}\n\n{STALE}\n{rest}"


def tree(
    known: Sequence[tuple[Part, Record]], links: Mapping[str, str], whole: WholeRun | None = None
) -> dict[str, Any]:
    """Return the page's data: headlines, what each part took, and links to the records, which have all figures."""
    headlines: dict[str, Any] = {}
    for part, record in known:
        headlines |= part.headline(record.result)
    took = {part.name: {"wall": record.seconds, "cpu": record.cpu_seconds} for part, record in known}
    said = {} if whole is None else {"whole_run": vars(whole)}
    return {**headlines, **said, "seconds": took, "records": dict(links)}


def runtime(known: Sequence[tuple[Part, Record]], whole: WholeRun | None = None) -> str:
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


def render(name: str, values: Mapping[str, Any]) -> str:
    """Return a text with its figures.

    Raises:
        jinja2.UndefinedError: It asks for something that is not in `values`.
    """
    loader = jinja2.PackageLoader("experiments.quality", "texts")
    # Markdown of our own figures: nothing of a user's stands in it.
    environment = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, autoescape=False)
    return environment.get_template(f"{name}.md.j2").render(values).strip()


def frame(results: Mapping[str, Result]) -> tuple[str, str]:
    """Return what stands above all parts and below them; what speaks of a part is left out where it has no result."""
    values = _values({name: results.get(name) for name in ("expressions", "ablation", "listening", "students")})
    return render("head", values), render("tail", values)


def _values(parts: dict[str, Result | None]) -> dict[str, Any]:
    ablation, listening, students = (parts[name] or {} for name in ("ablation", "listening", "students"))

    def rule(coverage: float, name: str, world: str = "test") -> Mapping[str, Any]:
        (aim,) = (aim for aim in listening["aims"] if aim["coverage"] == coverage)
        found: Mapping[str, Any] = aim[world]["rules"][name]
        return found

    def miou(name: str) -> str:
        return value(students["kinds"][name]["all"])

    return {
        **parts,
        "rule": rule,
        "miou": miou,
        "three": triple,
        "whole": cell,
        "gap": lambda name: cell(ablation["default_minus_second"][f"{name}/accuracy"]),
        "is_uniqueness_better": bool(ablation)
        and is_reversed_beside(ablation["test"]["by_difficulty"]["shipped-distinctiveness - shipped-uniqueness"]),
        "unlabelled": _unlabelled(listening),
        "is_goal_reached": _is_goal_reached(listening),
    }


def _unlabelled(listening: Result) -> str:
    rows = (row["test"] for row in listening.get("labels", ()) if row["labels"] == "none")
    return next(map(triple_of_means, rows), "")


def _is_goal_reached(listening: Result) -> bool:
    """Whether the rule that is made for it has accuracy, yield and coverage at once, on test scenes."""
    found = [aim["test"]["rules"][_RULE] for aim in listening.get("aims", ()) if aim["coverage"] == _GOAL[-1]]
    return any(
        all(figures[name]["value"] >= least for name, least in zip(TRIPLE, _GOAL, strict=True)) for figures in found
    )
