"""The tables and the figure of PPT in one command each, for whoever has the data and the weights.

    python -m examples.ppt COMMAND REFER train2014 OBJECTS OUT [--preset paper] [--set KEY=VALUE ...]

COMMAND is tables (1 and 2), ablation (3) or figure (3). REFER holds refcoco, refcoco+ and refcocog, each with refs(…).p
and instances.json; OBJECTS a folder a class of object-centric images, such as Mini-ImageNet's. The command makes D_sem
and D_ref of OBJECTS, and H of each dataset's texts of split train, no mask of theirs read; trains; asks the held-out
splits; and writes OUT/COMMAND.md, with hours and memory. All commands share OUT: what one has made, the next one takes.
Interrupted, the same command goes on; other settings for a finished step are refused by name. Rows: `steps.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from evidence.experiments.quality.markdown_cells import markdown_table
from examples.ppt.query_points import draw_queries
from examples.ppt.steps import FULL, TABLES, TITLES, Dataset, Inputs, datasets, plan
from examples.results_table import PARAMETERS, Measured, as_markdown, costs_table, read_measured
from examples.step_log import named_rows, run_steps, weight_notes, write_page

_COLUMNS: Final = {
    # The last one is table 2's.
    "tables": ("oiou", "miou", "p@0.3", "p@0.5", "p@0.7", PARAMETERS),
    "ablation": ("oiou", "miou", "p@0.3", "p@0.5", "p@0.7"),
}
_MILLION: Final = 10**6
_NOTES: Final = {
    "tables": "A training for each dataset, from its own texts of split train. The paper does not say whether its "
    "rows are one training or several. Its G-Ref is `refcocog-google`.",
    "ablation": "Rows 3 to 5 are one training after its phases. Each training has one seed (`--train-set "
    "training.seed=1`, with another OUT, for more).",
}


def main(
    command: Annotated[Literal["tables", "ablation", "figure"], typer.Argument(help="What is made.")],
    refer: Annotated[Path, typer.Argument(help="Folder of refcoco, refcoco+ and refcocog.", exists=True)],
    images: Annotated[Path, typer.Argument(help="Folder train2014.", exists=True)],
    objects: Annotated[Path, typer.Argument(help="Object-centric images: CLASS/*.jpg.", exists=True)],
    out: Annotated[Path, typer.Argument(help="Folder for everything that is written.")],
    preset: Annotated[str, typer.Option(help="Of recipes and trainings: paper or tiny.")] = "paper",
    settings: Annotated[list[str] | None, typer.Option("--set", help="A setting of the recipes.")] = None,
    training: Annotated[list[str] | None, typer.Option("--train-set", help="A setting of the trainings.")] = None,
    sample: Annotated[int, typer.Option(min=1, help="So many object-centric images.")] = 2836,
    names: Annotated[Path | None, typer.Option(help="CSV with columns folder,name: the classes.", exists=True)] = None,
    row: Annotated[list[str] | None, typer.Option(help="Only this row, by its name; can be repeated.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Expressions of the figure.")] = 6,
) -> None:
    """Make a table or the figure; the same command goes on where an interrupted one stopped."""
    places = (refer.resolve(), images.resolve(), objects.resolve(), out.resolve())
    inputs = Inputs(*places, preset, settings or (), training or (), sample, names)
    write_page(inputs.out / f"{command}.md", lambda: _page(inputs, command, row, count))


def _page(inputs: Inputs, command: str, named: Sequence[str] | None, count: int) -> str:
    table = TABLES[command]
    rows = named_rows(command, table, named) or list(table)
    chosen = datasets(inputs, command)
    steps = plan(inputs, command, rows, chosen)
    records = run_steps(inputs.out, steps, inputs.places)
    if command == "figure":
        return f"{_figure(inputs, chosen[0], count)}\n\n{costs_table(records)}\n"
    results = {dataset.name: partial(inputs.result, dataset) for dataset in chosen}
    measured = list(read_measured({name: table[name].title for name in rows}, results))
    if command == "tables":
        measured = [_sized(inputs, chosen[0], each) for each in measured]
    notes, columns = [*weight_notes(steps), _NOTES[command]], _COLUMNS[command]
    return as_markdown(TITLES[command], f"ppt-{command}", measured, records, notes=notes, columns=columns)


def _sized(inputs: Inputs, trained: Dataset, line: Measured) -> Measured:
    """A line with its trained parameters: the same of each dataset, and none without a training."""
    training, count = TABLES["tables"][line.row].training, 0
    if training is not None:
        summary = inputs.model(trained, training) / "summary.json"
        count = json.loads(summary.read_text(encoding="utf-8"))["num_parameters"]
    return replace(line, figures={**line.figures, PARAMETERS: {"value": count / _MILLION}})


def _figure(inputs: Inputs, dataset: Dataset, count: int) -> str:
    model, truth, (split,) = inputs.model(dataset, FULL), inputs.at("truth", dataset.name), dataset.asked
    told = draw_queries(inputs.out / "figure.png", model, truth, split, count=count)
    parts = [
        f"# {TITLES['figure']}",
        f"Of each of the first {len(told)} images of {dataset.name}/{split} one expression: the first that names a "
        "side, or the first. A line has the truth, the answer of the surest query, and all other queries by their "
        "confidence: green discs with a plus are points inside, red ones with a minus outside, the tinted area is "
        "SAM's mask of them. The paper's own pictures are other ones.",
        "![The points of every query](figure.png)",
        markdown_table(["expression", "queries", "confidence", "IoU", "best query's IoU"], told),
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    typer.run(main)
