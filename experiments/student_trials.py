"""Trials of what a chooser learns from, or with, each against what ships.

    nice python -m experiments.student_trials refinement|weights|lengths|draws [--out quality-out] [--seeds 2] [--fresh]
    [--json F]

`refinement`: the outline of the chosen mask redrawn, or not. Simulated annotators have true outlines; ours are SAM's,
of which it can learn none. One clipping of gradients is over chooser and refinement, so that choices differ a little
too.

`weights`: of what was drawn, the probability that a caption is right as a weight, against filters. The lines from
scores to the column `weight` are fitted on annotated development scenes (`pseudoris calibrate`), and the training
scenes annotated with them.

`lengths`: steps of a training, for the kinds of annotation that simulated annotators had a part in.

`draws`: of the best preset, kept expressions alone, or any of a mask without a kept one (`data.draw=pseudo_ris`).

All are asked about development scenes that nothing is fitted on; with `--fresh`, once the choice is made, about test
scenes that nothing was chosen on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

from benchmarks.measurement import machine
from experiments.quality.judged_run import judged_run
from experiments.quality.markdown_cells import as_json, cell, markdown_table, value
from experiments.quality.parts import Options
from experiments.quality.question_kinds import KINDS
from experiments.quality.scene_runs import SceneRun, pseudo_run, training_scenes, true_run
from experiments.quality.student_arms import NUM_STEPS, QUICK_STEPS, Arm, by_kind, train_arms
from experiments.quality.students import NUM_SCENES, QUICK_SCENES, UNFILTERED, best_arm
from pseudoris.cli.evaluate import as_yaml
from pseudoris.synthworld.scenes import Split
from pseudoris.training.calibration import calibrated_run

# Of the scenes, those that simulated annotators annotate beside ours.
_SHARE: Final = 0.1
_MIXED: Final = f"ours beside {_SHARE:.0%} of simulated annotators'"
# Of distinctiveness; `tiny` ships the last but one.
_TAUS: Final = (1.0, 1.2, 1.35, 1.5)
_WEIGHTINGS: Final = {"loss": "loss", "draw": "draw", "loss and the draw": "both"}
_LENGTHS: Final = (150, 300, 450, 600)
_COVERAGE, _YIELD = 0.65, 2.0
# Development scenes: the first to fit on, the others to ask about.
_FITTED = SceneRun(Split.DEVELOPMENT, 150, 2_000)
_ASKED = SceneRun(Split.DEVELOPMENT, 300, 2_300)
_FRESH = SceneRun(Split.TEST, 300, 30_000)


@dataclass(frozen=True)
class Tried:
    """A row of a trial.

    Attributes:
        arm: What is learnt from, and with.
        beside: The row that it is compared with; None for none.
        steps: Of its training.
    """

    arm: Arm
    beside: str | None = None
    steps: int = NUM_STEPS

    def seeded(self, options: Options, num_seeds: int) -> list[Arm]:
        """Return the arm with each seed."""
        steps = self.steps * options.pick(NUM_STEPS, QUICK_STEPS) // NUM_STEPS
        words = (*self.arm.assignments, f"training.num_steps={steps}")
        return [replace(self.arm, assignments=words, seed=options.seed + number) for number in range(num_seeds)]


def refinement(options: Options) -> Iterator[tuple[str, Tried]]:
    """Yield each kind of annotation, without a refinement and with one."""
    for name, arm in _annotations(options).items():
        yield name, Tried(arm)
        refined = replace(arm, assignments=(*arm.assignments, "refinement.is_on=true"))
        yield f"{name}, outlines redrawn", Tried(refined, name)


def weights(options: Options) -> Iterator[tuple[str, Tried]]:
    """Yield weights and filters of a run whose weights are probabilities."""
    fitted_on = replace(_FITTED, count=options.pick(_FITTED.count, 40))
    fitted = calibrated_run(*judged_run(pseudo_run(options, fitted_on)), coverage=_COVERAGE, least_yield=_YIELD)
    file = (options.out / "drawn-weights.yaml").resolve()
    file.write_text(as_yaml(fitted), encoding="utf-8")
    run = pseudo_run(options, training_scenes(options.scenes(NUM_SCENES, QUICK_SCENES)), example=str(file))
    every = "all that was drawn"
    yield every, Tried(Arm((run,), assignments=(UNFILTERED,)))
    for where, name in _WEIGHTINGS.items():
        yield f"weight in the {where}", Tried(Arm((run,), assignments=(UNFILTERED, f"data.weighting={name}")), every)
    yield "calibrated bounds", Tried(Arm((run,)), every)
    for tau in _TAUS:
        yield f"τ = {tau:g}", Tried(Arm((run,), assignments=(UNFILTERED, f"data.tau={tau:g}")), every)


def lengths(options: Options) -> Iterator[tuple[str, Tried]]:
    """Yield trainings of each length: of simulated annotation beside the shipped length, and of ours beside it."""
    arms = _annotations(options)
    for steps in _LENGTHS:
        shipped = None if steps == NUM_STEPS else f"simulated annotators', {NUM_STEPS} steps"
        yield f"simulated annotators', {steps} steps", Tried(arms["simulated annotators'"], shipped, steps)
        yield f"{_MIXED}, {steps} steps", Tried(arms[_MIXED], f"simulated annotators', {steps} steps", steps)


def draws(options: Options) -> Iterator[tuple[str, Tried]]:
    """Yield the best annotation with each draw; that of `tiny` is measured in `quality.paper_chain`."""
    best = best_arm(options, training_scenes(options.scenes(NUM_SCENES, QUICK_SCENES)))
    for draw in ("distinct", "pseudo_ris"):
        drawn = replace(best, assignments=(*best.assignments, f"data.draw={draw}"))
        yield draw, Tried(drawn, None if draw == "distinct" else "distinct")


def _annotations(options: Options) -> dict[str, Arm]:
    scenes = training_scenes(options.scenes(NUM_SCENES, QUICK_SCENES))
    ours = best_arm(options, scenes)
    few = true_run(options, training_scenes(max(1, round(_SHARE * scenes.count))))
    return {
        "simulated annotators'": Arm((true_run(options, scenes),)),
        "ours": ours,
        _MIXED: replace(ours, human=few),
    }


Trial = Literal["refinement", "weights", "lengths", "draws"]
_ROWS: Final[Mapping[Trial, Callable[[Options], Iterator[tuple[str, Tried]]]]] = {
    "refinement": refinement,
    "weights": weights,
    "lengths": lengths,
    "draws": draws,
}


def measure(trial: Trial, options: Options, *, num_seeds: int, is_fresh: bool = False) -> dict[str, Any]:
    """Train every row with every seed, and ask all of them the same."""
    options.out.mkdir(parents=True, exist_ok=True)
    rows = dict(_ROWS[trial](options))
    groups = {name: row.seeded(options, num_seeds) for name, row in rows.items()}
    asked = _FRESH if is_fresh else _ASKED
    val = true_run(options, replace(asked, count=options.pick(asked.count, 20)))
    found = train_arms(options, groups, val, shown=f"students: {trial}")
    bootstrap = found.bootstrap()
    return {
        "trial": trial,
        "machine": machine(),
        "asked": Path(val).parent.name,
        "seeds": num_seeds,
        "rows": {
            name: {
                **by_kind(found, name),
                "p90": found.figures[name]["p90"]["mean"],
                "beside": row.beside,
                "difference": None if row.beside is None else as_json(bootstrap.difference(name, row.beside)),
            }
            for name, row in rows.items()
        },
    }


def table(result: Mapping[str, Any]) -> str:
    """Return the rows as Markdown."""
    cells = [
        [
            name,
            cell(row["all"]),
            *(value(row[kind]) for kind in KINDS),
            f"{row['p90']:.3f}",
            "" if row["beside"] is None else f"{cell(row['difference'], sign='+')} to *{row['beside']}*",
        ]
        for name, row in result["rows"].items()
    ]
    return markdown_table(["learnt from", "mIoU", *KINDS, "P@0.9", "difference"], cells)


def main(
    trial: Annotated[Trial, typer.Argument(help="What is tried.")],
    out: Annotated[Path, typer.Option(help="Folder of what is used again.")] = Path("quality-out"),
    seeds: Annotated[int, typer.Option(min=1, help="Of each row.")] = 2,
    processes: Annotated[int, typer.Option(min=1, help="Of one thread each.")] = 2,
    fresh: Annotated[bool, typer.Option("--fresh", help="Ask test scenes that nothing was chosen on.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="A trial: few steps and questions.")] = False,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Train every row of a trial, and print what each is worth."""
    result = measure(trial, Options(out, is_quick=quick, processes=processes), num_seeds=seeds, is_fresh=fresh)
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    typer.echo(table(result))


if __name__ == "__main__":
    typer.run(main)
