"""The tables of Pseudo-RIS in one command each, for whoever has the data and the weights.

    python -m examples.pseudo_ris TABLE REFER train2014 OUT [--preset paper] [--set KEY=VALUE ...]

TABLE is main, phrasecut (with --phrasecut VGPhraseCut_v0), semi or ablations. REFER holds refcoco, refcoco+ and
refcocog, each with refs(…).p and instances.json. The command annotates the images of RefCOCO+'s split train, trains
students with the authors' draw, evaluates them, and writes OUT/TABLE.md: one table beside the published figures, with
hours and memory. All tables share OUT: what one has made, the next one takes. Interrupted, the same command goes on;
other settings for a finished step are refused by name. A step is a command of `pseudoris`, a row is data: `tables.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

from examples.command_steps import run_steps
from examples.pseudo_ris.steps import EXPORTS, PHRASECUT, Benchmark, Truth, export_text, plan, truths
from examples.pseudo_ris.tables import LEARNERS, TABLES
from examples.results_table import MEANINGLESS, Measured, as_markdown
from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import require_header

_RANDOM: Final = "random:"
_ALL: Final = "all"
_SEVERAL: Final = "group"


def main(
    table: Annotated[Literal["main", "phrasecut", "semi", "ablations"], typer.Argument(help="Which table.")],
    refer: Annotated[Path, typer.Argument(help="Folder of refcoco, refcoco+ and refcocog.", exists=True)],
    images: Annotated[Path, typer.Argument(help="Folder train2014.", exists=True)],
    out: Annotated[Path, typer.Argument(help="Folder for everything that is written.")],
    phrasecut: Annotated[Path | None, typer.Option(help="VGPhraseCut_v0, with images/ in it.", exists=True)] = None,
    preset: Annotated[str, typer.Option(help="Of the annotation: paper, base or tiny.")] = "paper",
    settings: Annotated[list[str] | None, typer.Option("--set", help="A setting of the annotation.")] = None,
    student: Annotated[str, typer.Option(help="Preset of the students: vit-b-16 or tiny.")] = "vit-b-16",
    training: Annotated[list[str] | None, typer.Option("--train-set", help="A setting of the students.")] = None,
    row: Annotated[list[str] | None, typer.Option(help="Only this row, by its name; can be repeated.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Leave out images that any dataset holds out.")] = False,
) -> None:
    """Make one table; the same command goes on where an interrupted one stopped."""
    places = (refer.resolve(), images.resolve(), out.resolve())
    data = None if phrasecut is None else phrasecut.resolve()
    benchmark = Benchmark(*places, preset, settings or (), student, training or (), data, strict)
    try:
        _make(benchmark, table, _rows(table, row or ()))
    except ConfigError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


def _rows(table: str, named: Sequence[str]) -> list[str]:
    """The rows to run: the named ones, or all that need nothing else."""
    known = TABLES[table].learners
    if unknown := [name for name in named if name not in known]:
        raise ConfigError(f"--row {unknown[0]!r} is not in the table {table}. Its rows are {', '.join(known)}.")
    return list(named) or [name for name in known if not LEARNERS[name].needs]


def _make(benchmark: Benchmark, table: str, rows: Sequence[str]) -> None:
    asked = truths(benchmark, table)
    steps = plan(benchmark, table, rows, asked)
    records = run_steps(benchmark.out, steps, benchmark.places)
    measured = [each for name in rows for truth in asked for each in _measured(benchmark, truth, name)]
    left = [f"{LEARNERS[name].title}: not run, needs {LEARNERS[name].needs}." for name in _left(table, rows)]
    notes = [*([MEANINGLESS] if _is_random(benchmark) else []), *TABLES[table].notes]
    page = as_markdown(
        TABLES[table].title, table, measured, records, notes=notes, after=[*left, *_exports(benchmark, table)]
    )
    (benchmark.out / f"{table}.md").write_text(page, encoding="utf-8")
    typer.echo(page)


def _left(table: str, rows: Sequence[str]) -> list[str]:
    return [name for name in TABLES[table].learners if name not in rows and LEARNERS[name].needs]


def _measured(benchmark: Benchmark, truth: Truth, name: str) -> Iterator[Measured]:
    parts: list[dict[str, Any]] = json.loads(truth.result(benchmark, name).read_text(encoding="utf-8"))["parts"]
    for part in parts:
        asked = f"{truth.name}/{part['split']}"
        if part["kind"] == _ALL and (part["split"] != _ALL or truth.name == PHRASECUT):
            yield Measured(name, LEARNERS[name].title, asked, part)
        elif part["kind"] == _SEVERAL and part["split"] == _ALL:
            yield Measured(name, LEARNERS[name].title, f"{asked}, several instances", part)


def _exports(benchmark: Benchmark, table: str) -> Iterator[str]:
    if table != "main":
        return
    yield "## The paper's own trainers"
    yield (
        "What the exports say, and then, in the trainers' own folders and environments: `python -u train.py --config "
        "config/refcoco+/cris_r50.yaml` (CRIS), `bash run_scripts/train.sh` (ETRIS). A file of their predictions is "
        "scored as the rows above are: `pseudoris evaluate --model predictions.jsonl --truth OUT/truth/refcoco`."
    )
    for form in EXPORTS:
        yield f"```\n{export_text(benchmark, form).read_text(encoding='utf-8').strip()}\n```"


def _is_random(benchmark: Benchmark) -> bool:
    config = require_header(RunLocation.open(str(benchmark.out / "runs" / "main"))).config
    return any(stage.weights.uri.startswith(_RANDOM) for stage in (config.masks, config.captions, config.filtering))


if __name__ == "__main__":
    typer.run(main)
