"""A few true annotations, with and without generated ones: the paper's Figure 4 on scenes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from experiments.quality.markdown_cells import markdown_table
from experiments.quality.parts import Options, Part, Result, plot_name
from experiments.quality.scene_runs import BY_SHARES, pseudo_run, training_scenes, true_run
from experiments.quality.segmenters import NUM_TEST, QUICK_TEST, segmenter, settings, test_run
from experiments.quality.student_arms import Arm, mean_and_deviation, num_steps, seeded, train_arms
from experiments.quality.students import NUM_SCENES, QUICK_SCENES
from experiments.quality.svg_chart import Axis, Line, axis_of, line_chart

SHARES: Final = (0.0, 0.01, 0.05, 0.1, 0.25, 1.0)
_QUICK_SHARES: Final = (0.0, 0.05, 1.0)
_NUM_SEEDS: Final = 1


def run(options: Options) -> Result:
    """Train with each share of the scenes annotated by people, beside the machine's annotation of all and alone."""
    scenes = training_scenes(options.scenes(NUM_SCENES, QUICK_SCENES))
    val = test_run(options)
    pseudo = pseudo_run(options, scenes, composing=BY_SHARES)
    shares = _QUICK_SHARES if options.is_quick else SHARES
    counts = {share: max(1, round(share * scenes.count)) if share else 0 for share in shares}
    groups: dict[str, list[Arm]] = {}
    for share, count in counts.items():
        true = true_run(options, training_scenes(count)) if count else None
        groups[f"mixed {share}"] = seeded(options, segmenter(pseudo, human=true), num_seeds=_NUM_SEEDS)
        if true is not None:
            groups[f"alone {share}"] = seeded(options, segmenter(true), num_seeds=_NUM_SEEDS)
    figures = train_arms(options, groups, val, shown="students with few annotations").figures
    return {
        "scenes": scenes.count,
        "seeds": len(groups["alone 1.0"]),
        "steps": num_steps(options),
        "test_scenes": options.scenes(NUM_TEST, QUICK_TEST),
        "points": [
            {
                "share": share,
                "annotated": count,
                "mixed": figures[f"mixed {share}"],
                "alone": figures.get(f"alone {share}"),
            }
            for share, count in counts.items()
        ],
    }


def section(result: Result) -> str:
    """Return the part's Markdown."""
    rows = [
        [
            f"{100 * point['share']:g} %",
            f"{point['annotated']}",
            mean_and_deviation(point["alone"]) if point["alone"] else "–",
            mean_and_deviation(point["mixed"]),
            f"{_gain(point):+.3f}" if point["alone"] else "–",
        ]
        for point in result["points"]
    ]
    intro = (
        f"{result['scenes']} training scenes, all annotated by `tiny` with its composer; of a share of them a "
        f"student sees the true masks and people's expressions too. mIoU on {result['test_scenes']} test scenes; "
        + ("one seed a share." if result["seeds"] == 1 else f"mean ± deviation of {result['seeds']} seeds.")
    )
    header = ["annotated by people", "scenes", "people alone", "with pseudo-annotation", "gain"]
    return "\n\n".join(
        [
            "## Few annotations",
            intro,
            markdown_table(header, rows),
            _told(result),
            f"![mIoU]({plot_name('semi', 'miou')})",
        ]
    )


def _told(result: Result) -> str:
    """What the curve says, whatever it says."""
    points = result["points"]
    asked = [point for point in points if point["alone"]]
    without = points[0]["mixed"]["miou"]["mean"]
    below = _shares(point for point in asked if point["alone"]["miou"]["mean"] < without)
    gained, lost = (_shares(point for point in asked if (_gain(point) > 0) == is_gain) for is_gain in (True, False))
    said = [
        f"Pseudo-annotation of all scenes, without people's, is above people's of {below} alone."
        if below
        else "Pseudo-annotation of all scenes, without people's, is not above people's of any share alone."
    ]
    if gained:
        said.append(f"Beside people's it helps at {gained}.")
    if lost:
        said.append(
            f"It costs at {lost}. Every training has {result['steps']} steps, and beside the machine's masks people's "
            "are seen less often; whether that costs it, or expressions that are wrong, was not taken apart."
        )
    if result["seeds"] == 1:
        said.append("Of one seed each: what seeds alone change stands in the table above.")
    return " ".join(said)


def _shares(points: Iterable[Mapping[str, Any]]) -> str:
    return ", ".join(f"{100 * point['share']:g} %" for point in points)


def plots(result: Result) -> Mapping[str, str]:
    """Return the curve."""
    points = result["points"]
    lines = [
        Line("with pseudo-annotation", [_whisker(at, point["mixed"]) for at, point in enumerate(points)]),
        Line("people alone", [_whisker(at, point["alone"]) for at, point in enumerate(points) if point["alone"]], True),
    ]
    heights = [place[1] for line in lines for place in line.points]
    labels = [(float(at), f"{100 * point['share']:g} %") for at, point in enumerate(points)]
    along = Axis("share of scenes annotated by people", -0.3, len(points) - 0.7, labels)
    return {"miou": line_chart("mIoU over annotation", along, axis_of("mIoU", [0.0, *heights]), lines)}


def _whisker(at: int, figures: Mapping[str, Any]) -> tuple[float, float, float, float]:
    mean, deviation = figures["miou"]["mean"], figures["miou"]["std"]
    return float(at), mean, mean - deviation, mean + deviation


def _gain(point: Mapping[str, Any]) -> float:
    gain: float = point["mixed"]["miou"]["mean"] - point["alone"]["miou"]["mean"]
    return gain


PART = Part("semi", run, section, plots, settings=settings)
