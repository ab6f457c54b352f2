"""Expressions with positions and relations: how often they are right, and what a mask gains by them."""

from __future__ import annotations

from typing import Final

from benchmarks.composing.measuring import (
    AFTER,
    BEFORE,
    COMPOSED,
    KINDS,
    MAX_DISTINCTIVENESS,
    NEGATIVE,
    WORDS,
    as_tree,
    measure,
)
from benchmarks.quality.annotate import DISTINCTIVE, SceneSet, annotated_scenes
from benchmarks.quality.options import Options
from benchmarks.quality.parts import Part, Result
from benchmarks.quality.tables import cell, is_above_zero, markdown_table
from schemas.composing import ComposingConfig
from synthworld.scenes import Split

_ROWS: Final = {
    BEFORE: "kept by the filter",
    WORDS: "the composer's evidence without places",
    COMPOSED: "composed of one mask",
    AFTER: "kept and composed of one mask",
}
_TITLES: Final = {
    "position": "a place in the image",
    "relation": "a relation to another object",
    "group": "several objects",
    "none": "no object of the image",
}


def run(options: Options) -> Result:
    """Compose over the candidates of the ablation's first test scenes."""
    scenes = SceneSet(Split.TEST, options.scenes(400, 40))
    found = measure(scenes.all(), annotated_scenes(options, scenes, DISTINCTIVE), ComposingConfig(kinds=KINDS))
    return {"scenes": scenes.count, **as_tree(found), "seconds_per_image": round(found.seconds_per_image, 5)}


def section(result: Result) -> str:
    """Return the part's Markdown."""
    estimates, counts = result["estimates"], result["counts"]
    rows = [
        [title, *(cell(estimates[f"{part}.{figure}"]) for figure in ("accuracy", "coverage", "yield"))]
        for part, title in _ROWS.items()
    ]
    kinds = [
        [_TITLES[kind], f"{counts[kind]:,}", cell(estimates[f"kind.{kind}"])]
        for kind in KINDS
        if f"kind.{kind}" in estimates
    ]
    intro = (
        f"The [composer](composing.md) names a place or a relation where words do not suffice; off in every preset. "
        f"{result['scenes']} test scenes, {counts['objects']:,} objects, SAM's own masks; "
        f"{1000 * result['seconds_per_image']:.1f} ms of one core an image. Right is what the oracle reads as its "
        "targets and as nothing else."
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
    return "\n\n".join(["## Positions and relations", intro, *tables, negatives])


PART = Part("composition", run, section)
