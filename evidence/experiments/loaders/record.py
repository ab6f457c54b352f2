"""The record of what each loader gave, and the table that docs/records/appendix/exports.md shows of it."""

from __future__ import annotations

import csv
import json
import logging
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from evidence.experiments.loaders import trainers
from evidence.experiments.loaders.snapshots import MissingSnapshotError, root_of
from evidence.experiments.loaders.truth import KINDS, figures_of
from pseudoris.files.location import RunLocation

_ROOT: Final = Path(__file__).parents[3]
RECORD: Final = _ROOT / "evidence/experiments/results/loaders.json"
PAGE: Final = _ROOT / "docs/records/appendix/exports.md"
MARKS: Final = ("<!-- python -m evidence.experiments.loaders -->", "<!-- end of the loaders -->")
_HEAD: Final = ("trainer", "code", "`pseudoris export OUT DEST`", *KINDS, "pixels", "what is lost")

# Of a trainer: `figures`, those of `figures_of`, None where it did not run; `problem`, why it did not; `dropped`, what
# the export left out by reason; `source` and `command`, the code and the export that were run.
Row = dict[str, Any]


def read_trainers() -> dict[str, dict[str, str]]:
    """Return the rows of trainers.tsv by name: code, loader with arguments, options of the export, what is lost."""
    with Path(__file__).with_name("trainers.tsv").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return {row["trainer"]: row for row in rows}


def measured(trainer: Mapping[str, str], folder: Path, work: Path) -> Row:
    """Export what a trainer reads, run its loader, and return what it gave; runs in a process of its own."""
    # Loaders warn of much that is not theirs.
    logging.disable(logging.WARNING)
    run, options = work / "demo/run", shlex.split(trainer["command"])
    export = work / "-".join(options[1::2])
    command = [sys.executable, "-m", "pseudoris", "export", str(run), str(export), *options, "--overwrite"]
    subprocess.run(command, check=True, capture_output=True)
    dropped = json.loads((export / "_export.json").read_text(encoding="utf-8"))["dropped"]
    row: Row = {"source": trainer["code"], "command": trainer["command"], "dropped": dropped, "figures": None}
    try:
        arguments = json.loads(trainer["arguments"])
        seen = getattr(trainers, trainer["loader"])(root_of(folder, trainer["code"]), export, **arguments)
        return row | {"figures": figures_of(RunLocation.open_to_read(str(run)), seen)}
    except Exception as error:
        # Whatever a loader raises on an export is what there is to know of it.
        if not isinstance(error, MissingSnapshotError | ImportError):
            logging.getLogger(__name__).exception("%s does not read %s", trainer["trainer"], export)
        return row | {"problem": f"{type(error).__name__}: {error}"}


def read_record(path: Path = RECORD) -> dict[str, Row]:
    """Return the rows by trainer."""
    found: dict[str, Row] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def table_of(rows: Mapping[str, Row]) -> str:
    """Return the table of the rows, in the trainers' order."""
    lines = [_HEAD, ("---", "---", "---", *["--:"] * 4, "---")]
    lines += [_line(trainer, rows[name]) for name, trainer in read_trainers().items() if name in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _line(trainer: Mapping[str, str], row: Row) -> tuple[str, ...]:
    names = (trainer["trainer"], row["source"], f"`{row['command']}`")
    if row["figures"] is None:
        return (*names, *["only read"] * 4, f"It does not run here: {row['problem']}")
    return (*names, *cells_of(row["figures"]), trainer["what is lost"])


def cells_of(figures: Mapping[str, Any]) -> list[str]:
    """Return the counts by kind and of pixels, each with the whole where it is not all."""
    wrong = f" and {figures['wrong']:,} wrong" if figures["wrong"] else ""
    pairs = [(figures["read"][kind], figures["tables"][kind]) for kind in KINDS]
    cells = [f"{read:,}{wrong}" if read == whole else f"{read:,} of {whole:,}{wrong}" for read, whole in pairs]
    if figures["pixels_wrong"] is None:
        return [*cells, "boxes"]
    wrong = f" and {figures['pixels_wrong']:,} wrong" if figures["pixels_wrong"] else ""
    return [*cells, f"{figures['pixels_read']:,} of {figures['pixels']:,}{wrong}"]
