"""The tables of Pseudo-RIS in one command each, for whoever has the data and the weights.

    python -m examples.pseudo_ris TABLE REFER train2014 OUT [--preset paper] [--set KEY=VALUE ...]

TABLE is main, phrasecut (with --phrasecut VGPhraseCut_v0), semi or ablations. REFER holds refcoco, refcoco+ and
refcocog, each with refs(…).p and instances.json. The command annotates the images of RefCOCO+'s split train, trains
students with the authors' draw, evaluates them, and writes OUT/TABLE.md: one table beside the published figures, with
hours and memory. All tables share OUT: what one has made, the next one takes. Interrupted, the same command goes on;
other settings for a finished step are refused by name. A step is a command of `pseudoris`, a row is data: `steps.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from evidence.experiments.quality.svg_chart import Axis, Line, axis_of, line_chart, stack
from examples.pseudo_ris.steps import LEARNERS, PHRASECUT, SHARES, TABLES, Benchmark, plan, truths
from examples.results_table import Measured, as_markdown, read_measured
from examples.step_log import Step, named_rows, run_steps, weight_notes, write_page


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
    write_page(benchmark.out / f"{table}.md", lambda: _page(benchmark, table, row))


def _page(benchmark: Benchmark, table: str, named: Sequence[str] | None) -> str:
    known = TABLES[table].learners
    rows = named_rows(table, known, named) or [name for name in known if not LEARNERS[name].needs]
    asked = truths(benchmark, table)
    steps = plan(benchmark, table, rows, asked)
    records = run_steps(benchmark.out, steps, benchmark.places)
    titles = {name: LEARNERS[name].title for name in rows}
    results = {truth.name: partial(truth.result, benchmark) for truth in asked}
    measured = list(read_measured(titles, results, has_whole=table == PHRASECUT))
    left = [LEARNERS[name] for name in known if LEARNERS[name].needs and name not in rows]
    after = [f"{each.title}: not run, needs {each.needs}." for each in left]
    if table == "semi":
        draw_curve(benchmark.out / "semi.svg", measured)
        after.append("![mIoU over the share of human references, with our annotation and without](semi.svg)")
    if table == "main":
        after += _exports(steps)
    notes = [*weight_notes(steps), *TABLES[table].notes]
    return as_markdown(TABLES[table].title, table, measured, records, notes=notes, after=after)


def draw_curve(path: Path, measured: Sequence[Measured]) -> None:
    """Write figure 4 of the paper, a chart a split: mIoU over the share of human references, with ours and without."""
    shares = (0.0, *SHARES)
    labels = [(float(at), f"{share:.0%}") for at, share in enumerate(shares)]
    along = Axis("share of RefCOCO+'s human references", -0.3, len(SHARES) + 0.3, labels)
    splits: dict[str, dict[bool, list[tuple[float, ...]]]] = {}
    for each in measured:
        learner, miou = LEARNERS[each.row], each.figures["miou"]
        if miou["value"] is not None:
            point = (shares.index(learner.human), *(100 * miou[key] for key in ("value", "low", "high")))
            splits.setdefault(each.split, {False: [], True: []})[learner.annotation is None].append(point)
    charts = []
    for split, points in splits.items():
        lines = [Line("ours and human", sorted(points[False])), Line("human alone", sorted(points[True]), True)]
        mious = [miou for line in lines for point in line.points for miou in point[1:]]
        charts.append(line_chart(split, along, axis_of("mIoU, %", mious), lines))
    path.write_text(stack(charts), encoding="utf-8")


def _exports(steps: Sequence[Step]) -> Iterator[str]:
    yield "## The paper's own trainers"
    yield (
        "What the exports say, and then, in the trainers' own folders and environments: `python -u train.py --config "
        "config/refcoco+/cris_r50.yaml` (CRIS), `bash run_scripts/train.sh` (ETRIS). A file of their predictions is "
        "scored as the rows above are: `pseudoris evaluate --model predictions.jsonl --truth OUT/truth/refcoco`."
    )
    for step in steps:
        if step.into is not None and step.words[0] == "export":
            yield f"```\n{step.into.read_text(encoding='utf-8').strip()}\n```"


if __name__ == "__main__":
    typer.run(main)
