"""One setting moved at a time, on development scenes: test scenes are for the one report of the ablation.

Fewer draws and fewer crop kinds are read off the whole annotation, draw by draw: draws are keyed by decoder and crop,
so that leaving one out leaves the others what they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.quality.annotate import DISTINCTIVE, NUCLEUS, PAPER, PAPER_TAU, SHIPPED, SceneSet, Setting, filters
from benchmarks.quality.counting import count_systems
from benchmarks.quality.options import Options
from benchmarks.quality.parts import Part, Result
from benchmarks.quality.sweeps_section import plots, section
from benchmarks.quality.systems import ALL_DRAWS, Above, Draws, Everything, System
from benchmarks.quality.tables import as_json
from schemas.config import SamplingConfig
from schemas.shard import CROP_MASKED, crop_context
from synthworld.scenes import Split
from training.evaluation.bootstrap import ImageBootstrap

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


@dataclass(frozen=True)
class Point:
    """One value of a sweep: which annotation, and which of its draws."""

    label: str
    setting: Setting = DISTINCTIVE
    draws: Draws = ALL_DRAWS


def run(options: Options) -> Result:
    """Measure all sweeps."""
    scenes = SceneSet(Split.DEVELOPMENT, options.scenes(60, 20))
    sweeps = {"samplers": _samplers(), "crops": _crops(), "others": _others(), "masks": _masks()}
    systems = [system for name, points in sweeps.items() for point in points for system in _systems(name, point)]
    systems += [system for tau in TAUS for system in _at_tau(tau)]
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


def _masks() -> list[Point]:
    return [
        Point("reduced (shipped)"),
        Point("not reduced", _UNREDUCED),
        Point("the truth's", DISTINCTIVE.on_true_masks()),
    ]


def _systems(sweep: str, point: Point) -> list[System]:
    """What is drawn, and what each rule keeps of it."""
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


def _at_tau(tau: float) -> list[System]:
    return [
        System(f"tau-{bound}-{tau:g}", f"{tau:g}", Above("distinctiveness", tau), bound=bound)
        for bound in (PAPER, SHIPPED)
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
    names: Sequence[str] = ("accuracy", "yield", "coverage")
    found: dict[str, Any] = {figure: as_json(bootstrap.ratio(f"{system}/{figure}")) for figure in names}
    return found | {"expressions": round(bootstrap.total(f"{system}/accuracy")[1])}


PART: Final = Part("sweeps", run, section, plots)
