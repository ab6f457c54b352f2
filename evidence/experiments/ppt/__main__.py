"""PPT's ablation in miniature: the nine rows of the paper's Table 3 on held-out synthetic scenes, and seven more.

    python -m evidence.experiments.ppt [--out bench-out/ppt] [--quick]
        [--json docs/records/appendix/ppt.json] [--page FILE]

Each finished job leaves a record in `evidence/experiments/results/ppt`, and is not measured again. An interrupted
training continues if OUT is still there. So the whole can run in pieces, in the background:

    nice -n 15 python -m evidence.experiments.ppt --processes 1 --only full --only plain

`--quick` runs everything with a few images and steps; its figures mean nothing, and its records stay in OUT. A trial or
a part (`--quick`, `--only`, `--no-pseudo`, another `--epochs-factor` or `--world`) writes nothing into docs, which have
figures of whole runs only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from evidence.experiments.ppt.ablation_jobs import RECORDS, job_names, jobs_of, measure
from evidence.experiments.ppt.ablation_rows import QUICK, TRAININGS, WHOLE, make_runs
from evidence.experiments.ppt.ablation_table import BEGIN, END, as_json, as_markdown, trials
from evidence.experiments.process_pool import run_jobs
from evidence.experiments.quality.markdown_cells import put_into
from pseudoris.synthworld.scenes import DEFAULT_WORLD, Split, make_scene

_DOCS = Path(__file__).parents[3] / "docs"


def main(
    out: Annotated[Path, typer.Option(help="Of runs, trainings and figures.")] = Path("bench-out/ppt"),
    is_quick: Annotated[bool, typer.Option("--quick", help="A trial of the whole in minutes.")] = False,
    processes: Annotated[int | None, typer.Option(min=1, help="Of one thread each; one a CPU by default.")] = None,
    epochs_factor: Annotated[float | None, typer.Option(help="Of the paper's 50 epochs.", show_default=False)] = None,
    world: Annotated[str, typer.Option(help="Of the scenes that are trained on and asked.")] = DEFAULT_WORLD,
    is_pseudo: Annotated[
        bool, typer.Option("--pseudo/--no-pseudo", help="Also PPT and the student on the pipeline's annotation.")
    ] = True,
    only: Annotated[list[str] | None, typer.Option(help="Names of trainings, such as full, or floor.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
    page: Annotated[Path | None, typer.Option(help="Put the table into this page, between its marks.")] = None,
    is_report_only: Annotated[bool, typer.Option("--report-only", help="Measure nothing: what has a record.")] = False,
) -> None:
    """Measure what is missing, and print the table."""
    sizes = QUICK if is_quick else WHOLE
    sizes = replace(sizes, epochs_factor=epochs_factor or sizes.epochs_factor, world=world)
    # A world that there is none of costs no run.
    make_scene(Split.TEST, 0, world=world)
    _refuse_unknown(only or [], job_names(is_pseudo=is_pseudo))
    if sizes != WHOLE or not is_pseudo or not _of_paper() <= {*(only or _of_paper())}:
        _refuse_docs({"--json": json_path, "--page": page})
    torch.set_num_threads(1)
    console = Console(stderr=True)
    folder = out / ("quick" if is_quick else "whole")
    folder.mkdir(parents=True, exist_ok=True)
    records = folder / "records" if is_quick else RECORDS
    jobs = jobs_of(sizes, folder / "trainings", records, is_pseudo=is_pseudo)
    # Seeds in turn: what stands when it is stopped is whole tables of fewer seeds.
    wanted = sorted((job for job in jobs if not only or job.name in only), key=lambda job: job.seed)
    wanted = [job for job in wanted if job.is_finished or not is_report_only]
    left = [job for job in wanted if not job.is_finished]
    if left:
        console.print(f"{len(left)} of {len(wanted)} jobs have no record in {records}", highlight=False)
        needs_pseudo = any(job.needs_annotation for job in left)
        runs = make_runs(folder, sizes, is_pseudo=needs_pseudo, tell=lambda text: console.print(text, highlight=False))
        wanted = [replace(job, runs=runs) for job in wanted]
    result = as_json(run_jobs(measure, wanted, processes or len(os.sched_getaffinity(0)), shown="jobs"), sizes)
    if sizes == WHOLE:
        result["trials"] = trials()
    for path in filter(None, (folder / "ppt.json", json_path)):
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    table = as_markdown(result)
    if page is not None:
        put_into(page, table, marks=(BEGIN, END))
    typer.echo(table)
    per_step = result["cpu_s"] / max(result["steps"], 1)
    typer.echo(
        f"{result['cpu_s']:,} CPU seconds, {result['steps']:,} steps: {per_step:.2f} s a step, with its questions"
    )


def _refuse_unknown(only: Sequence[str], names: Sequence[str]) -> None:
    unknown = sorted(set(only) - set(names))
    if unknown:
        raise typer.BadParameter(f"--only {unknown[0]}: there is no such training here; allowed: {', '.join(names)}")


def _of_paper() -> set[str]:
    return {"floor", *(each.name for each in TRAININGS if each.is_paper)}


def _refuse_docs(paths: Mapping[str, Path | None]) -> None:
    """Refuse to put figures of a trial, or of some of the paper's rows, in the place of the whole ablation's."""
    for option, path in paths.items():
        if path is not None and path.resolve().is_relative_to(_DOCS.resolve()):
            raise typer.BadParameter(
                f"{option} {path} lies in docs, which has the figures of all rows at their whole size: name another "
                "file, or leave out --quick, --epochs-factor, --world, and an --only without all of the paper's rows"
            )


if __name__ == "__main__":
    typer.run(main)
