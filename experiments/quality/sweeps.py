"""Moves one setting at a time, on development scenes; test scenes are used only for the ablation's report.

Fewer draws and fewer crop kinds are selected from the whole annotation: draws are keyed by decoder and crop, so that
leaving one out does not change the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from experiments.quality.annotated_scenes import (
    DISTINCTIVE,
    NUCLEUS,
    PAPER,
    PAPER_TAU,
    SHIPPED,
    SceneSet,
    Setting,
    filters,
)
from experiments.quality.ladder import ALL_DRAWS, Above, Draws, Everything, System, count_systems
from experiments.quality.markdown_cells import TRIPLE, as_json
from experiments.quality.page import template
from experiments.quality.parts import Options, Part, Result
from experiments.quality.svg_chart import Line, axis_of, line_chart, whisker
from pseudoris.schemas.config import SamplingConfig
from pseudoris.schemas.shard import CROP_MASKED, crop_context
from pseudoris.synthworld.scenes import Split
from pseudoris.training.evaluation.bootstrap import ImageBootstrap

TAUS: Final = (0.8, 0.9, 1.0, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0, 2.5)
SHARES: Final = (0.25, 0.5, 0.75, 1.25, 1.5)
SAMPLERS: Final = (1, 2, 3, 5, 10)
# What doubles the candidates of the shipped sets without repeating a draw.
_MORE: Final = Setting(
    "twenty-samplers",
    (
        "captions.sampling.top_k=[2, 3]",
        "captions.sampling.top_p=[0.6, 0.625, 0.65, 0.675, 0.7, 0.725, 0.75, 0.775, 0.8, 0.825, 0.85, 0.865, 0.88, "
        "0.89, 0.9, 0.91, 0.92, 0.93]",
    ),
)
_UNREDUCED: Final = Setting(
    "unreduced",
    ("masks.reduction={mask_nms_iou: 1.0, min_area: 0.0, max_area: 1.0, min_inside: 1.0, max_part_area: 0.0}",),
)
# Fewer tell no accuracy.
_MIN_EXPRESSIONS: Final = 30


@dataclass(frozen=True)
class Point:
    """One value of a sweep: which annotation, and which of its draws."""

    label: str
    setting: Setting = DISTINCTIVE
    draws: Draws = ALL_DRAWS


def run(options: Options) -> Result:
    """Measure all sweeps."""
    scenes = SceneSet(Split.DEVELOPMENT, options.scenes(60, 20))
    masks = [
        Point("reduced (shipped)"),
        Point("not reduced", _UNREDUCED),
        Point("the truth's", DISTINCTIVE.on_true_masks()),
    ]
    sweeps = {"samplers": _samplers(), "crops": _crops(), "others": _others(), "masks": masks}
    systems = [system for name, points in sweeps.items() for point in points for system in _systems(name, point)]
    systems += [
        System(f"tau-{bound}-{tau:g}", f"{tau:g}", Above("distinctiveness", tau), bound=bound)
        for tau in TAUS
        for bound in (PAPER, SHIPPED)
    ]
    bootstrap = ImageBootstrap(count_systems(options, scenes, systems), seed=options.seed)
    return {
        "scenes": scenes.count,
        "tau": {
            bound: [{"tau": tau, **_figures(bootstrap, f"tau-{bound}-{tau:g}")} for tau in TAUS]
            for bound in (PAPER, SHIPPED)
        },
        **{name: [_row(bootstrap, name, point) for point in points] for name, points in sweeps.items()},
    }


def _samplers() -> list[Point]:
    sampling = DISTINCTIVE.config().captions.sampling
    points = [Point(str(count), draws=Draws(samplers=spread_samplers(sampling, count))) for count in SAMPLERS]
    return [*points, Point("20", _MORE)]


def spread_samplers(sampling: SamplingConfig, count: int) -> tuple[tuple[int | None, float | None], ...]:
    """Return so many of the configured samplers, as (top-k, top-p), spread evenly from narrow to wide sets."""
    every: list[tuple[int | None, float | None]] = [(k, None) for k in sorted(sampling.top_k)]
    every += [(None, p) for p in sorted(sampling.top_p)]
    if count >= len(every):
        return tuple(every)
    return tuple(every[round((place + 0.5) * len(every) / count - 0.5)] for place in range(count))


def _crops() -> list[Point]:
    kinds = tuple(DISTINCTIVE.config().captions.crop_kinds())
    alone = [Point(kind, draws=Draws(crops=(kind,))) for kind in kinds]
    contexts = tuple(kind for kind in kinds if kind != CROP_MASKED)
    both = (CROP_MASKED, crop_context(1.2))
    return [
        *alone,
        Point("contexts", draws=Draws(crops=contexts)),
        Point(" + ".join(both), draws=Draws(crops=both)),
        Point("all four"),
    ]


def _others() -> list[Point]:
    moved = {share: Setting(f"others-{share:g}", (f"captions.sampling.others_weight={share:g}",)) for share in SHARES}
    points = {0.0: NUCLEUS, 1.0: DISTINCTIVE, **moved}
    similar = Setting("others-similar", ("captions.sampling.others_weighting=similar",))
    return [*(Point(f"{share:g}", points[share]) for share in sorted(points)), Point("1, by similarity", similar)]


def _systems(sweep: str, point: Point) -> list[System]:
    name = f"{sweep}-{point.label}"
    tau = filters(point.setting.config())[SHIPPED].tau
    kept = {PAPER: PAPER_TAU, SHIPPED: tau}
    return [
        System(f"{name}-drawn", point.label, Everything(), point.setting, draws=point.draws),
        *(
            System(f"{name}-{bound}", point.label, Above("distinctiveness", at), point.setting, bound, point.draws)
            for bound, at in kept.items()
        ),
    ]


def _row(bootstrap: ImageBootstrap, sweep: str, point: Point) -> dict[str, Any]:
    name = f"{sweep}-{point.label}"
    setting = point.setting.name
    return {
        "label": point.label,
        **{said: _figures(bootstrap, f"{name}-{said}") for said in ("drawn", PAPER, SHIPPED)},
        "masks": {figure: as_json(bootstrap.ratio(f"{setting}:masks.{figure}")) for figure in ("recall_75", "objects")},
    }


def _figures(bootstrap: ImageBootstrap, system: str) -> dict[str, Any]:
    found: dict[str, Any] = {figure: as_json(bootstrap.ratio(f"{system}/{figure}")) for figure in TRIPLE}
    return found | {"expressions": round(bootstrap.total(f"{system}/accuracy")[1])}


def plots(result: Result) -> Mapping[str, str]:
    """Return the part's plots."""
    lines = []
    for bound, points in result["tau"].items():
        for figure in ("accuracy", "coverage"):
            known = [(each["tau"], each[figure]) for each in points if each["expressions"] >= _MIN_EXPRESSIONS]
            drawn = [whisker(tau, each) for tau, each in known]
            lines.append(Line(f"{figure}, {bound} bound", drawn, is_dashed=figure == "coverage"))
    widths = [point[0] for line in lines for point in line.points]
    heights = [point[1] for line in lines for point in line.points]
    chart = line_chart("Accuracy and coverage over τ", axis_of("τ", widths), axis_of("share", [0.0, *heights]), lines)
    return {"tau": chart}


PART: Final = Part(
    "sweeps", run, template("sweeps", lambda _: {"min_expressions": _MIN_EXPRESSIONS}), plots, is_appendix=True
)
