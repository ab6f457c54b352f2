"""A few true annotations, with and without generated ones: the paper's Figure 4 on scenes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from experiments.quality.page import template
from experiments.quality.parts import Options, Part, Result
from experiments.quality.scene_runs import training_scenes, true_run
from experiments.quality.student_arms import Arm, by_kind, num_steps, seeded, train_arms
from experiments.quality.students import NUM_FRESH, NUM_SCENES, QUICK_FRESH, QUICK_SCENES, best_arm, fresh_run, settings
from experiments.quality.svg_chart import Axis, Line, axis_of, line_chart, whisker

SHARES: Final = (0.0, 0.05, 0.1, 1.0)
_QUICK_SHARES: Final = (0.0, 0.05, 1.0)
_NUM_SEEDS: Final = 2
_WHOLE: Final = 1.0


def run(options: Options) -> Result:
    """Train with a share of the scenes from simulated annotators, beside the machine's annotation of all and alone."""
    scenes = training_scenes(options.scenes(NUM_SCENES, QUICK_SCENES))
    val = fresh_run(options)
    machine = best_arm(options, scenes)
    shares = _QUICK_SHARES if options.is_quick else SHARES
    counts = {share: max(1, round(share * scenes.count)) if share else 0 for share in shares}
    groups: dict[str, list[Arm]] = {}
    for share, count in counts.items():
        true = true_run(options, training_scenes(count)) if count else None
        groups[_mixed(share)] = seeded(options, replace(machine, human=true), num_seeds=_NUM_SEEDS)
        if true is not None:
            groups[_alone(share)] = seeded(options, Arm((true,)), num_seeds=_NUM_SEEDS)
    found = train_arms(options, groups, val, shown="students with few annotations")

    return {
        "scenes": scenes.count,
        "seeds": len(groups[_alone(_WHOLE)]),
        "steps": num_steps(options),
        "test_scenes": options.scenes(NUM_FRESH, QUICK_FRESH),
        "points": [
            {
                "share": share,
                "annotated": count,
                "mixed": by_kind(found, _mixed(share)),
                "alone": by_kind(found, _alone(share)) if count else None,
                "mixed_minus_simulated_people": found.difference(_mixed(share), _alone(_WHOLE)),
            }
            for share, count in counts.items()
        ],
    }


def _mixed(share: float) -> str:
    return f"mixed {share}"


def _alone(share: float) -> str:
    return f"alone {share}"


def plots(result: Result) -> Mapping[str, str]:
    """Return the curve."""
    points = result["points"]
    lines = [
        Line("beside the machine's", [whisker(float(at), point["mixed"]["all"]) for at, point in enumerate(points)]),
        Line(
            "simulated annotators alone",
            [whisker(float(at), point["alone"]["all"]) for at, point in enumerate(points) if point["alone"]],
            True,
        ),
    ]
    heights = [place[1] for line in lines for place in line.points]
    labels = [(float(at), f"{100 * point['share']:g} %") for at, point in enumerate(points)]
    along = Axis("share of scenes annotated by simulated annotators", -0.3, len(points) - 0.7, labels)
    return {"miou": line_chart("mIoU over annotation", along, axis_of("mIoU", heights), lines)}


PART = Part("semi", run, template("semi"), plots, settings=settings)
