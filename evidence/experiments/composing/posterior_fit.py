"""Fit the composer's posterior on development scenes: `python -m evidence.experiments.composing.posterior_fit`.

With `--captioner builtin:tiny/coca_longer.safetensors` it fits those of the preset `tiny-composed`.

Three fits, each of one probability to the truth of the scenes: which noun a mask's object bears, whether a word is true
of it, and whether a mask is an object at all. Nothing is chosen here by how often an expression is right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
import yaml

from evidence.experiments.oracle import candidates_of
from evidence.experiments.quality.annotated_scenes import LISTENED, SceneSet, annotated_scenes
from evidence.experiments.quality.parts import Options
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.fitted import Counted, Floats, PosteriorConfig
from pseudoris.schemas.keep_rule import Flags
from pseudoris.schemas.shard import ShardImage
from pseudoris.synthworld.attributes import Attributes
from pseudoris.synthworld.scene_truth import SceneImageTruth
from pseudoris.synthworld.scenes import Scene, Split
from pseudoris.training.calibration.confidence_fit import logistic_regression
from pseudoris.training.evaluation.truth import match_image
from pseudoris.workers.composing.composer import composer_of
from pseudoris.workers.composing.posterior import (
    MIN_SHARE,
    Evidence,
    drawn_by_mask,
    evidence_of,
    nested_shares,
    object_features,
    substitutes,
    word_features,
)

NUM_SCENES: Final = 200
# Against weights without bound where few scenes leave no doubt; in units of standardised features.
_RIDGE: Final = 1e-3
_STEPS: Final = 60
_DIGITS: Final = 2
# Where scenes say nothing of a weight, that of `tiny`.
KNOWN: Final = composer_of(load_config("tiny", None, ["composing={}"])).posterior


@dataclass(frozen=True, eq=False)
class _Mask:
    """What was drawn for a mask, its scores as features, and the words of its object; None where it is none."""

    evidence: Evidence
    scores: Floats
    nested: float
    truth: Attributes | None
    replaced_by: Mapping[str, frozenset[str]]


def fitted_weights(
    scenes: Sequence[Scene], images: Sequence[ShardImage], counts: Counted, *, is_nested: bool = False
) -> PosteriorConfig:
    """Return the weights that fit annotated scenes; what is no weight is as of `tiny`.

    `is_nested` sets `object_nested` in the place of `object_overlap`.

    So do weights that a few scenes say nothing of: where each mask is an object, none tells which are.
    """
    masks = [mask for pair in zip(scenes, images, strict=True) for mask in _masks(*pair, counts)]
    share, correctness = _fit_nouns(masks)
    word_bias, *slopes = _fit_words(masks)
    against, word_share = (max(slope, 0.0) for slope in slopes)
    object_bias, *scores = _fit_objects(masks, is_nested=is_nested)
    iou, stability = (max(score, 0.0) for score in scores[:2])
    # What is nested is ruled out; its weight only keeps it out of the other two.
    inside: dict[str, Any] = (
        {"object_overlap": 0.0, "object_nested": 1.0} if is_nested else {"object_overlap": min(scores[2], 0.0)}
    )
    return PosteriorConfig(
        counts=counts,
        noun_share=share,
        noun_correctness=correctness,
        word_bias=word_bias,
        word_against=against,
        word_share=word_share,
        object_bias=object_bias,
        object_predicted_iou=iou,
        object_stability=stability,
        unseen=KNOWN.unseen,
        **inside,
    )


def _masks(scene: Scene, image: ShardImage, counts: Counted) -> Iterator[_Mask]:
    drawn = drawn_by_mask(image)
    evidence = [evidence_of(drawn.get(mask.mask_id, ()), counts) for mask in image.masks]
    replaced_by = substitutes(phrase for each in evidence for phrase in each.phrases)
    object_of = match_image(SceneImageTruth(scene), candidates_of(image, lambda each: True)).object_of_mask
    nested = nested_shares(image.masks, evidence).tolist() if image.masks else []
    for mask, said, scores, inside in zip(image.masks, evidence, object_features(image.masks), nested, strict=True):
        number = object_of.get(mask.mask_id)
        yield _Mask(said, scores, inside, None if number is None else scene.objects[number].attributes, replaced_by)


def _fit_nouns(masks: Sequence[_Mask]) -> list[float]:
    """A conditional logit among the nouns drawn for a mask, where its object's is one of them."""
    tables, right = [], []
    for mask in masks:
        nouns = list(mask.evidence.nouns)
        if mask.truth is not None and mask.truth.category in nouns:
            shares = [np.log(mask.evidence.nouns[noun] + MIN_SHARE) for noun in nouns]
            tables.append(np.column_stack([shares, [mask.evidence.correctness[noun] for noun in nouns]]))
            right.append(nouns.index(mask.truth.category))
    # A mask has as many probabilities as nouns; only what differs between them counts.
    std = np.concatenate([table - table.mean(axis=0) for table in tables]).std(axis=0) + 1e-9
    weights = np.zeros(2)
    for _ in range(_STEPS):
        gradient, curvature = _RIDGE * weights, _RIDGE * np.eye(2)
        for table, place in zip((table / std for table in tables), right, strict=True):
            odds = table @ weights
            likely = np.exp(odds - odds.max())
            likely /= likely.sum()
            mean = likely @ table
            gradient += (mean - table[place]) / len(tables)
            curvature += (table - mean).T @ ((table - mean) * likely[:, None]) / len(tables)
        step = np.linalg.solve(curvature, gradient)
        # Of a few masks a whole step leads beyond the other side.
        weights -= step / max(1.0, float(np.abs(step).max()))
    # Evidence that speaks against itself is an accident of few masks.
    return _rounded(np.maximum(weights, 0.0) / std)


def _fit_words(masks: Sequence[_Mask]) -> list[float]:
    known = KNOWN
    rows, right = [], []
    for mask in masks:
        if mask.truth is None:
            continue
        true = {mask.truth.colour, mask.truth.pattern, mask.truth.size, mask.truth.part}
        for word in mask.evidence.words:
            rows.append(word_features(mask.evidence.words, word, mask.replaced_by, KNOWN.least_opposed))
            right.append(word in true)
    return _logistic(np.array(rows), np.array(right, np.bool_), (known.word_bias, known.word_against, known.word_share))


def _fit_objects(masks: Sequence[_Mask], *, is_nested: bool) -> list[float]:
    known, scores = KNOWN, np.stack([mask.scores for mask in masks])
    if is_nested:
        scores[:, 2] = [mask.nested for mask in masks]
    slopes = (known.object_predicted_iou, known.object_stability, known.object_overlap)
    return _logistic(scores, np.array([mask.truth is not None for mask in masks]), (known.object_bias, *slopes))


def _logistic(table: Floats, right: Flags, known: Sequence[float]) -> list[float]:
    """The bias and the weights, in units of the features; `known` where there is nothing to tell apart."""
    if len(np.unique(right)) < 2:
        return list(known)
    bias, slopes = logistic_regression(table, right.astype(np.float64))
    return _rounded(np.array([bias, *slopes]))


def _rounded(weights: Floats) -> list[float]:
    return [round(float(weight), _DIGITS) for weight in weights]


def main(
    cache: Annotated[Path, typer.Option(help="Where candidates are kept.")] = Path("bench-out/composing"),
    scenes: Annotated[int, typer.Option(min=1, help="How many development scenes.")] = NUM_SCENES,
    processes: Annotated[int, typer.Option(min=1, help="Each holds the three models.")] = 2,
    captioner: Annotated[str | None, typer.Option(help="Weights of another captioner than that of `tiny`.")] = None,
) -> None:
    """Print the weights for both ways to count, each as a part of a file that `filtering.fitted.uri` names."""
    asked = SceneSet(Split.DEVELOPMENT, scenes)
    weights = () if captioner is None else (f"captions.weights={{uri: {captioner}}}",)
    setting = replace(LISTENED, assignments=(*LISTENED.assignments, *weights))
    images = annotated_scenes(Options(cache, processes=processes), asked, setting)
    for counts in ("draws", "probability"):
        typer.echo(yaml.safe_dump({"posterior": fitted_weights(asked.all(), images, counts).model_dump()}))


if __name__ == "__main__":
    typer.run(main)
