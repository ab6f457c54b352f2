"""docs/records/quality.md, its appendix, docs/records/quality.json and the plots beside them, from the parts' records.

All texts are templates, `texts/*.md.j2`: that above the parts, a section for each part, and the sections of parts that
are measured no more.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from evidence.experiments.quality.markdown_cells import cell, is_reversed_beside, plot_name, render
from evidence.experiments.quality.parts import Options, Part, Record, Result, WholeRun, fingerprint, record_path

PAGE, APPENDIX, DATA = "quality.md", "appendix/quality.md", "quality.json"
# Above a section whose record no run of today would take again.
STALE: Final = "*These figures were measured with other weights or settings than the code has now.*"


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
    beside = folder / APPENDIX
    beside.parent.mkdir(exist_ok=True)
    beside.write_text(appendix(known, options, whole), encoding="utf-8")
    return page


def markdown(known: Sequence[tuple[Part, Record]], options: Options) -> str:
    """Return the page."""
    sections = [_section(part, record, options) for part, record in known if not part.is_appendix]
    top = head({part.name: record.result for part, record in known})
    return "\n\n".join([top, *sections, *_recorded("recorded", options)]) + "\n"


def appendix(known: Sequence[tuple[Part, Record]], options: Options, whole: WholeRun | None = None) -> str:
    """Return the page of the other parts, and of what all of them take."""
    sections = [_section(part, record, options) for part, record in known if part.is_appendix]
    sections += _recorded("appendix_recorded", options)
    took = {"records": [record for _, record in known], "whole": whole}
    return "\n\n".join([render("quality/texts/appendix", {}), *sections, render("quality/texts/runtime", took)]) + "\n"


def _recorded(name: str, options: Options) -> list[str]:
    """Return the sections of parts that are measured no more, which a trial has no plots of."""
    return [render(f"quality/texts/{name}", {})] if options.is_whole else []


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


def template(name: str, values: Callable[[Result], Mapping[str, Any]] = lambda result: {}) -> Callable[[Result], str]:
    """Return what makes a part's section: `texts/<name>.md.j2` of its result, and of what `values` makes of that."""
    return lambda result: render(f"quality/texts/{name}", {**result, **values(result)})


def head(results: Mapping[str, Result]) -> str:
    """Return what stands above all parts; what speaks of a part is left out where it has no result."""
    parts = {name: results.get(name) for name in ("expressions", "judge", "ablation", "listening", "students")}
    ablation, listening, students = (parts[name] or {} for name in ("ablation", "listening", "students"))

    def rule(coverage: float, name: str, world: str = "test") -> Mapping[str, Any]:
        (aim,) = (aim for aim in listening["aims"] if aim["coverage"] == coverage)
        found: Mapping[str, Any] = aim[world]["rules"][name]
        return found

    def miou(name: str) -> str:
        return cell(students["kinds"][name]["all"])

    values = {
        **parts,
        "rule": rule,
        "miou": miou,
        "is_uniqueness_better": bool(ablation)
        and is_reversed_beside(ablation["test"]["by_difficulty"]["shipped-distinctiveness - shipped-uniqueness"]),
    }
    return render("quality/texts/head", values)
