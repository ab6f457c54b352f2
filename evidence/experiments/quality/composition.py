"""Expressions with positions and relations: how often they are correct, and what a mask gains by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from evidence.benchmarks.measurement import digest_of
from evidence.experiments.composing.composed_figures import COMPOSING, MAX_DISTINCTIVENESS, as_tree, measure
from evidence.experiments.listener.judged_scenes import Composed, settings_of
from evidence.experiments.quality.annotated_scenes import DISTINCTIVE, SceneSet, annotated_scenes
from evidence.experiments.quality.markdown_cells import differences, paired, ratios
from evidence.experiments.quality.page import template
from evidence.experiments.quality.parts import Options, Part, Result
from pseudoris.schemas.shard import ShardImage
from pseudoris.synthworld.scene_truth import SceneImageTruth
from pseudoris.synthworld.scenes import Scene, Split
from pseudoris.workers.composing.composer import Composer

_WHOLE: Final = "whole"
# What a part is switched off by: a mask is surely an object; a noun is what most draws say; nothing is overlooked.
_PARTS: Final[Mapping[str, Mapping[str, float]]] = {
    "without P(object)": {
        "object_bias": 30.0,
        "object_predicted_iou": 0.0,
        "object_stability": 0.0,
        "object_overlap": 0.0,
    },
    "without correctness in P(noun)": {"noun_correctness": 0.0},
    "without what has no mask or another name": {"unseen": 0.0},
}


def run(options: Options) -> Result:
    """Compose over the candidates of the ablation's first test scenes."""
    scenes = SceneSet(Split.TEST, options.scenes(400, 40))
    images = annotated_scenes(options, scenes, DISTINCTIVE)
    found = measure(scenes.all(), images, COMPOSING)
    took = {"seconds_per_image": round(found.seconds_per_image, 5)}
    return {"scenes": scenes.count, **as_tree(found), **took, "without": _without(scenes.all(), images)}


def _without(scenes: Sequence[Scene], images: Sequence[ShardImage]) -> dict[str, Any]:
    """What is composed of one mask, whole and without each of its parts; paired over scenes."""
    config, whole = COMPOSING.config, COMPOSING.posterior
    composers = {_WHOLE: COMPOSING}
    composers |= {name: Composer(config, whole.model_copy(update=dict(part))) for name, part in _PARTS.items()}
    truths = [SceneImageTruth(scene) for scene in scenes]
    found = paired({name: Composed.of(truths, images, composer).sums() for name, composer in composers.items()})
    return {name: {**ratios(found, name), "difference": differences(found, name, _WHOLE)} for name in composers}


def _settings(options: Options) -> Mapping[str, Any]:
    return {"composers": [digest_of(settings_of(COMPOSING))]}


PART = Part(
    "composition",
    run,
    template("composition", lambda _: {"max_distinctiveness": MAX_DISTINCTIVENESS}),
    settings=_settings,
    is_appendix=True,
)
