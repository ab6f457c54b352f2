"""Fit the lines from confidence to weight on development scenes: `python -m experiments.listener.pair_weights`.

The configuration is examples/listener-composer.yaml, whose own weights came from the same scenes. Further development
scenes, on which nothing was fitted, say how far confidence and weight are from the share that is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer

from benchmarks.measurement import cpu_seconds
from experiments.listener.judged_scenes import judged_columns
from experiments.oracle import candidates_of
from experiments.quality.annotated_scenes import LISTENED, SceneSet, annotated_scenes
from experiments.quality.markdown_cells import markdown_table
from experiments.quality.parts import Options
from pseudoris.schemas.confidence import WeightLine, confidence_of, line_weights
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.keep_rule import Floats
from pseudoris.schemas.shard import ShardImage
from pseudoris.schemas.stage_settings import ConfidenceConfig
from pseudoris.synthworld.scene_truth import SceneImageTruth
from pseudoris.synthworld.scenes import Scene, Split
from pseudoris.training.calibration.confidence_fit import NO_LABELS, fit_line, without_labels
from pseudoris.training.calibration.labelled_images import JudgedImage, judge_image
from pseudoris.workers.composing.composer import Composer

NUM_SCENES: Final = 200
NUM_CHECKED: Final = 100
EXAMPLE: Final = Path(__file__).parents[2] / "examples" / "listener-composer.yaml"
_EDGES: Final = (0.0, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0)
# Confidences and whether each is right, both (T,).
Judged = tuple[Floats, Floats]


def judged_scene(scene: Scene, image: ShardImage, config: RunConfig) -> JudgedImage:
    """Return a scene's candidates, with what the configuration composes beside them, judged by the oracle."""
    if config.composing is None:
        raise ValueError(f"{EXAMPLE} composes nothing: there is nothing to weigh beside what is drawn")
    composed = Composer(config.composing)(image)
    return judge_image(SceneImageTruth(scene), candidates_of(composed, lambda each: True), judged_columns(composed))


def drawn_by(images: Sequence[JudgedImage], weights: ConfidenceConfig) -> Judged:
    """Return the drawn candidates' confidence by some weights, and whether each is right."""
    confidence = np.concatenate([confidence_of(image.features, weights) for image in images])
    return confidence, np.concatenate([image.is_right for image in images]).astype(np.float64)


def composed_of(images: Sequence[JudgedImage]) -> Judged:
    """Return the same of what was composed of one mask."""
    confidence = np.concatenate([image.beside.confidence for image in images])
    return confidence, np.concatenate([image.beside.is_right for image in images]).astype(np.float64)


def reliability(probability: Floats, right: Floats) -> list[tuple[str, int, float, float]]:
    """Return for each range of the probability: its name, how many there are, their mean, the share that is right."""
    bins = np.clip(np.searchsorted(_EDGES, probability, side="right") - 1, 0, len(_EDGES) - 2)
    return [
        (f"{low:g} to {high:g}", int(inside.sum()), float(probability[inside].mean()), float(right[inside].mean()))
        for at, (low, high) in enumerate(pairwise(_EDGES))
        if (inside := bins == at).any()
    ]


def mean_gap(probability: Floats, right: Floats) -> float:
    """Return the mean distance of probability and share over the ranges, each by how many it holds."""
    found = reliability(probability, right)
    return sum(number * abs(mean - share) for _, number, mean, share in found) / len(right)


def _table(title: str, judged: Judged, line: WeightLine) -> str:
    confidence, right = judged
    weights = line_weights(line, confidence)
    rows = [
        [name, each, f"{number:,}", f"{mean:.3f}", f"{share:.3f}"]
        for name, values in (("confidence", confidence), ("weight", weights))
        for each, number, mean, share in reliability(values, right)
    ]
    gaps = [mean_gap(values, right) for values in (confidence, weights)]
    said = f"## {title}: {len(right):,}, {right.mean():.3f} right; mean gap {gaps[0]:.4f} before, {gaps[1]:.4f} after"
    return "\n\n".join([said, markdown_table(["", "range", "number", "mean", "right"], rows)])


def main(
    cache: Annotated[Path, typer.Option(help="Where candidates are kept.")] = Path("bench-out/pair-weights"),
    scenes: Annotated[int, typer.Option(min=1, help="How many development scenes to fit on.")] = NUM_SCENES,
    checked: Annotated[int, typer.Option(min=1, help="How many further ones to judge by.")] = NUM_CHECKED,
    processes: Annotated[int, typer.Option(min=1, help="Each holds the three models.")] = 1,
) -> None:
    """Print the lines, and how reliable confidence and weight are on further scenes."""
    config = load_config("tiny", EXAMPLE)
    options, began = Options(cache, processes=processes), cpu_seconds()

    def judged(asked: SceneSet) -> list[JudgedImage]:
        images = annotated_scenes(options, asked, LISTENED)
        return [judged_scene(scene, image, config) for scene, image in zip(asked.all(), images, strict=True)]

    fitted = judged(SceneSet(Split.DEVELOPMENT, scenes))
    further = judged(SceneSet(Split.DEVELOPMENT, checked, first=scenes))
    label_free = without_labels(fitted, NO_LABELS, wanted_yield=2.0).weights
    named = {"label-free": label_free, "drawn": config.filtering.confidence or label_free}
    pairs = {name: (drawn_by(fitted, weights), drawn_by(further, weights)) for name, weights in named.items()}
    pairs["composed"] = composed_of(fitted), composed_of(further)
    for name, (own, other) in pairs.items():
        line = fit_line(*own)
        if line is not None:
            typer.echo(f"{name}: {line.model_dump_json()}")
            typer.echo(_table(f"{name}, scenes fitted on", own, line))
            typer.echo(_table(f"{name}, further scenes", other, line))
    typer.echo(f"{(cpu_seconds() - began) / 60:.1f} CPU minutes")


if __name__ == "__main__":
    typer.run(main)
