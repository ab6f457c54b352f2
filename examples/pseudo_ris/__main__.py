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
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

from examples.pseudo_ris.steps import EXPORTS, PHRASECUT, Benchmark, Step, Truth, export_text, plan, truths
from examples.pseudo_ris.tables import LEARNERS, TABLES
from examples.results_table import MEANINGLESS, Measured, as_markdown
from examples.step_log import StepLog, run_pseudoris
from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import require_header

_RANDOM: Final = "random:"
# Where a step computes decides nothing.
_PLACEMENT: Final = "--set=placement."
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
    log = StepLog(benchmark.out / "steps")
    for step in steps:
        _refuse_others(benchmark, log, step)
    for step in steps:
        log.step(step.name, partial(_do, benchmark, step))
    measured = [each for name in rows for truth in asked for each in _measured(benchmark, truth, name)]
    records = [log.read(step.name) for step in steps]
    left = [f"{LEARNERS[name].title}: not run, needs {LEARNERS[name].needs}." for name in _left(table, rows)]
    notes = [*([MEANINGLESS] if _is_random(benchmark) else []), *TABLES[table].notes]
    page = as_markdown(
        TABLES[table].title, table, measured, records, notes=notes, after=[*left, *_exports(benchmark, table)]
    )
    (benchmark.out / f"{table}.md").write_text(page, encoding="utf-8")
    typer.echo(page)


def _left(table: str, rows: Sequence[str]) -> list[str]:
    return [name for name in TABLES[table].learners if name not in rows and LEARNERS[name].needs]


def _do(benchmark: Benchmark, step: Step) -> None:
    run_pseudoris(*step.words, into=step.into)
    path = _words_file(benchmark, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_decisive(benchmark, step)) + "\n", encoding="utf-8")


def _refuse_others(benchmark: Benchmark, log: StepLog, step: Step) -> None:
    """Refuse a finished step that other words made: it is known by its name alone."""
    if not log.read(step.name).is_finished:
        return
    made, now = json.loads(_words_file(benchmark, step).read_text(encoding="utf-8")), _decisive(benchmark, step)
    if made != now:
        before, here = ([each for each in words if each not in others] for words, others in ((made, now), (now, made)))
        raise ConfigError(
            f"{benchmark.out}: the step {step.name!r} is finished, with {' '.join(before) or 'less'}; now it has "
            f"{' '.join(here) or 'less'}. Give what made it, or another OUT."
        )


def _words_file(benchmark: Benchmark, step: Step) -> Path:
    return benchmark.out / "words" / f"{step.name.replace('/', '-')}.json"


def _decisive(benchmark: Benchmark, step: Step) -> list[str]:
    """The words of a step wherever its folders lie."""
    places = {"OUT": benchmark.out, "REFER": benchmark.refer, "IMAGES": benchmark.images}
    if benchmark.phrasecut is not None:
        places["PHRASECUT"] = benchmark.phrasecut
    words = [word for word in step.words if not word.startswith(_PLACEMENT)]
    for name, place in places.items():
        words = [word.replace(str(place), name) for word in words]
    return words


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
