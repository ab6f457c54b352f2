"""What a redrawn outline of the chosen mask is worth: choosers with and without, by what they learn from.

    nice python -m experiments.mask_refinement [--out quality-out] [--seeds 3] [--json F]

People's annotation has true outlines; ours has SAM's, from which a refinement can learn none. All are asked people's
expressions of fresh scenes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from benchmarks.measurement import machine
from experiments.quality.markdown_cells import as_json, cell, markdown_table
from experiments.quality.parts import Options
from experiments.quality.scene_runs import training_scenes, true_run
from experiments.quality.student_arms import Arm, mean_and_deviation, num_steps, seeded, train_arms
from experiments.quality.students import NUM_FRESH, NUM_SCENES, QUICK_FRESH, QUICK_SCENES, best_arm, fresh_run

REFINED: Final = "refinement.is_on=true"
# Of the scenes that people annotate beside ours.
_SHARE: Final = 0.1


def arms(options: Options) -> dict[str, Arm]:
    """Return what is learnt from, each without a refinement."""
    scenes = training_scenes(options.scenes(NUM_SCENES, QUICK_SCENES))
    ours = best_arm(options, scenes)
    few = true_run(options, training_scenes(max(1, round(_SHARE * scenes.count))))
    return {
        "people's": Arm((true_run(options, scenes),)),
        "ours": ours,
        f"ours beside {_SHARE:.0%} of people's": replace(ours, human=few),
    }


def measure(options: Options, *, num_seeds: int) -> dict[str, Any]:
    """Train every arm with and without a refinement, and ask all of them the same."""
    plain = arms(options)
    refined = {name: replace(arm, assignments=(*arm.assignments, REFINED)) for name, arm in plain.items()}
    groups = {name: seeded(options, arm, num_seeds=num_seeds) for name, arm in plain.items()}
    groups |= {_refined(name): seeded(options, arm, num_seeds=num_seeds) for name, arm in refined.items()}
    found = train_arms(options, groups, fresh_run(options), shown="students with and without a refinement")
    bootstrap = found.bootstrap()
    return {
        "machine": machine(),
        "asked": options.scenes(NUM_FRESH, QUICK_FRESH),
        "seeds": len(groups[next(iter(groups))]),
        "steps": num_steps(options),
        "arms": {
            name: {
                "plain": as_json(bootstrap.mean(name)),
                "refined": as_json(bootstrap.mean(_refined(name))),
                "difference": found.difference(_refined(name), name),
                "figures": {"plain": found.figures[name], "refined": found.figures[_refined(name)]},
            }
            for name in plain
        },
    }


def _refined(name: str) -> str:
    return f"{name}, refined"


def table(result: Mapping[str, Any]) -> str:
    """Return the arms as Markdown."""
    header = ["learnt from", "mIoU", "refined", "difference", "P@0.9", "refined"]
    rows = [
        [
            name,
            *(cell(arm[kind]) for kind in ("plain", "refined")),
            cell(arm["difference"], sign="+"),
            *(mean_and_deviation(arm["figures"][kind], "p90") for kind in ("plain", "refined")),
        ]
        for name, arm in result["arms"].items()
    ]
    return markdown_table(header, rows)


def main(
    out: Annotated[Path, typer.Option(help="Folder of what is used again.")] = Path("quality-out"),
    seeds: Annotated[int, typer.Option(min=1, help="Of each arm.")] = 3,
    processes: Annotated[int, typer.Option(min=1, help="Of one thread each.")] = 2,
    quick: Annotated[bool, typer.Option("--quick", help="A trial: few steps and questions.")] = False,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Train with and without a refinement, and print what it is worth."""
    result = measure(Options(out, is_quick=quick, processes=processes), num_seeds=seeds)
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    typer.echo(table(result))


if __name__ == "__main__":
    typer.run(main)
