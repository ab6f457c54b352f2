"""Expressions with positions and relations: how often they are correct, and what a mask gains by them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from benchmarks.measurement import digest_of
from experiments.composing.composed_figures import (
    AFTER,
    BEFORE,
    COMPOSED,
    COMPOSING,
    MAX_DISTINCTIVENESS,
    NEGATIVE,
    as_tree,
    measure,
)
from experiments.listener.judged_scenes import composed_alone, settings_of
from experiments.quality.annotated_scenes import DISTINCTIVE, SceneSet, annotated_scenes
from experiments.quality.markdown_cells import TRIPLE, as_json, cell, is_above_zero, markdown_table
from experiments.quality.parts import Options, Part, Result
from pseudoris.schemas.shard import ShardImage
from pseudoris.synthworld.scenes import Scene, Split
from pseudoris.training.evaluation.bootstrap import ImageBootstrap
from pseudoris.workers.composing.composer import Composer

_ROWS: Final = {
    BEFORE: "kept by the filter",
    COMPOSED: "composed of one mask",
    AFTER: "kept and composed of one mask",
}
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
_TITLES: Final = {
    "attribute": "words alone",
    "position": "a place in the image",
    "relation": "a relation to another object",
    "group": "several objects",
    "none": "no object of the image",
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
    bootstrap = ImageBootstrap(
        {
            f"{name}.{figure}": pair
            for name, composer in composers.items()
            for figure, pair in composed_alone(scene, image, composer).items()
        }
        for scene, image in zip(scenes, images, strict=True)
    )
    return {
        name: {
            **{figure: as_json(bootstrap.ratio(f"{name}.{figure}")) for figure in TRIPLE},
            "difference": {
                figure: as_json(bootstrap.difference(f"{name}.{figure}", f"{_WHOLE}.{figure}")) for figure in TRIPLE
            },
        }
        for name in composers
    }


def section(result: Result) -> str:
    """Return the part's Markdown."""
    estimates, counts = result["estimates"], result["counts"]
    rows = [
        [title, *(cell(estimates[f"{part}.{figure}"]) for figure in ("accuracy", "coverage", "yield"))]
        for part, title in _ROWS.items()
    ]
    kinds = [[title, *_of_kind(result, kind)] for kind, title in _TITLES.items()]
    intro = (
        f"The [composer](composing.md) names a place or a relation where words do not suffice; off in every preset but "
        "`tiny-composed`. "
        f"{result['scenes']} test scenes, {counts['objects']:,} objects, SAM's own masks; "
        f"{1000 * result['seconds_per_image']:.1f} ms of one core an image, with its default weights, of draws alone. "
        "Right is what the oracle reads as its targets and as nothing else."
    )
    gain = estimates[f"{AFTER} - {BEFORE}.coverage"]
    outcome = (
        f"Paired over scenes, composing adds {cell(gain, sign='+')} of the objects, and what it adds is more often "
        f"right than what the filter keeps: {cell(estimates[f'{COMPOSED} - {BEFORE}.accuracy'], sign='+')}."
        if is_above_zero(gain) and is_above_zero(estimates[f"{COMPOSED} - {BEFORE}.accuracy"])
        else f"Paired over scenes, composing changes coverage by {cell(gain, sign='+')} and accuracy, against what the "
        f"filter keeps, by {cell(estimates[f'{COMPOSED} - {BEFORE}.accuracy'], sign='+')}."
    )
    header = ["expressions", "accuracy", "objects with a right one", "a mask"]
    tables = [markdown_table(header, rows), outcome, markdown_table(["composed kind", "number", "accuracy"], kinds)]
    negatives = (
        "Negatives stand in the tables as they are: of what was drawn of a mask and rejected because CLIP finds a "
        f"rival for it (distinctiveness below {MAX_DISTINCTIVENESS}), {cell(estimates[f'{NEGATIVE}.yield'])} a mask, "
        f"{cell(estimates[f'{NEGATIVE}.accuracy'])} do not mean their mask alone "
        "([composing.md](composing.md#negatives))."
    )
    return "\n\n".join(
        ["## Positions and relations", intro, *tables, *_reliability(result), *_parts(result), negatives]
    )


def _parts(result: Result) -> Iterator[str]:
    yield "The same without one of its parts, weights and bounds as they are; the difference is paired over scenes."
    rows = [
        [
            name,
            *(cell(found[figure]) for figure in TRIPLE),
            *("" if name == _WHOLE else cell(found["difference"][part], sign="+") for part in ("accuracy", "coverage")),
        ]
        for name, found in result["without"].items()
    ]
    header = [
        "composed of one mask",
        "accuracy",
        "a mask",
        "objects with a right one",
        "difference of accuracy",
        "of objects",
    ]
    yield markdown_table(header, rows)


def _reliability(result: Result) -> Iterator[str]:
    """Whether what is said to be so likely right is right so often."""
    yield "What is said to be so likely right, of one mask, and how much of it is:"
    found = result["reliability"]
    rows = [
        [f"{row['from']:g} to {end:g}", f"{row['number']:,}", f"{row['right'] / row['number']:.3f}"]
        for row, end in zip(found, [*(row["from"] for row in found), 1.0][1:], strict=True)
    ]
    yield markdown_table(["P(right)", "number", "right"], rows)


def _of_kind(found: Mapping[str, Any], kind: str) -> tuple[str, str]:
    """How many there are, and how many of them are right; nothing of a kind that there is none of."""
    estimate = found["estimates"].get(f"kind.{kind}")
    return (f"{found['counts'][kind]:,}", "" if estimate is None else cell(estimate))


def _settings(options: Options) -> Mapping[str, Any]:
    return {"composers": [digest_of(settings_of(COMPOSING))]}


PART = Part("composition", run, section, settings=_settings, is_appendix=True)
