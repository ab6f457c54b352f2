"""What the probability that a caption is right is worth as a weight, against filters of it: on drawn candidates.

    nice python -m experiments.drawn_weights [--out quality-out] [--seeds 2] [--json F]

The lines from scores to the column `weight` are fitted on annotated development scenes (`pseudoris calibrate`), and the
training scenes annotated with them. Choosers learn from all that was drawn, with the weight in the loss, in the draw or
in both; from what calibrated bounds keep; and from what each τ keeps. All are asked about other development scenes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from benchmarks.measurement import machine
from experiments.quality.judged_run import judged_run
from experiments.quality.markdown_cells import as_json, cell, markdown_table, value
from experiments.quality.parts import Options
from experiments.quality.question_kinds import KINDS
from experiments.quality.scene_runs import SceneRun, pseudo_run, training_scenes, true_run
from experiments.quality.student_arms import Arm, by_kind, num_steps, seeded, train_arms
from experiments.quality.students import NUM_SCENES, QUICK_SCENES, UNFILTERED
from pseudoris.cli.calibrate import as_yaml
from pseudoris.synthworld.scenes import Split
from pseudoris.training.calibration import Calibration, calibrated_run

ALL: Final = "all that was drawn"
_FITTED = SceneRun(Split.DEVELOPMENT, 150, 2_000)
_FIRST_ASKED, _NUM_ASKED = 2_300, 300
# Of distinctiveness; `tiny` ships the second.
TAUS: Final = (1.0, 1.2, 1.5, 2.0)
_COVERAGE, _YIELD = 0.65, 2.0


def calibration(options: Options) -> Calibration:
    """Return weights and bounds, fitted on development scenes."""
    scenes = SceneRun(_FITTED.split, options.pick(_FITTED.count, 40), _FITTED.first)
    return calibrated_run(*judged_run(pseudo_run(options, scenes)), coverage=_COVERAGE, least_yield=_YIELD)


def arms(run: str) -> dict[str, Arm]:
    """Return what is learnt from a run whose weights are probabilities."""
    weighted = {f"weight in the {where}": (f"data.weighting={name}",) for where, name in _WEIGHTINGS.items()}
    return {
        ALL: Arm((run,), assignments=(UNFILTERED,)),
        **{name: Arm((run,), assignments=(UNFILTERED, *words)) for name, words in weighted.items()},
        "calibrated bounds": Arm((run,)),
        **{f"τ = {tau:g}": Arm((run,), assignments=(UNFILTERED, f"data.tau={tau:g}")) for tau in TAUS},
    }


_WEIGHTINGS: Final = {"loss": "loss", "draw": "draw", "loss and the draw": "both"}


def measure(options: Options, *, num_seeds: int) -> dict[str, Any]:
    """Fit, annotate, train every arm, and ask all of them the same."""
    fitted = calibration(options)
    options.out.mkdir(parents=True, exist_ok=True)
    file = (options.out / "drawn-weights.yaml").resolve()
    file.write_text(as_yaml(fitted), encoding="utf-8")
    scenes = training_scenes(options.scenes(NUM_SCENES, QUICK_SCENES))
    run = pseudo_run(options, scenes, example=str(file))
    num_asked = options.pick(_NUM_ASKED, 20)
    val = true_run(options, SceneRun(Split.DEVELOPMENT, num_asked, _FIRST_ASKED))
    groups = {name: seeded(options, arm, num_seeds=num_seeds) for name, arm in arms(run).items()}
    found = train_arms(options, groups, val, shown="students with weights and with filters")
    bootstrap = found.bootstrap()
    return {
        "machine": machine(),
        "fitted_on": fitted.num_images,
        "line": None if fitted.pair_weight is None else fitted.pair_weight.model_dump(exclude_none=True),
        "scenes": scenes.count,
        "asked": num_asked,
        "seeds": len(groups[ALL]),
        "steps": num_steps(options),
        "arms": {
            name: {**by_kind(found, name), "difference": as_json(bootstrap.difference(name, ALL))} for name in groups
        },
    }


def table(result: Mapping[str, Any]) -> str:
    """Return the arms as Markdown."""
    rows = [
        [
            name,
            cell(arm["all"]),
            *(value(arm[kind]) for kind in KINDS),
            "" if name == ALL else cell(arm["difference"], sign="+"),
        ]
        for name, arm in result["arms"].items()
    ]
    return markdown_table(["learnt from", "mIoU", *KINDS, f"− {ALL}"], rows)


def main(
    out: Annotated[Path, typer.Option(help="Folder of what is used again.")] = Path("quality-out"),
    seeds: Annotated[int, typer.Option(min=1, help="Of each arm.")] = 2,
    processes: Annotated[int, typer.Option(min=1, help="Of one thread each.")] = 2,
    quick: Annotated[bool, typer.Option("--quick", help="A trial: few steps and questions.")] = False,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Train with weights and with filters, and print what each is worth."""
    result = measure(Options(out, is_quick=quick, processes=processes), num_seeds=seeds)
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    typer.echo(table(result))


if __name__ == "__main__":
    typer.run(main)
