"""Measure where the scene CLIP points: `python -m evidence.experiments.scene_clip [--scenes N] [--json F]`.

A caption that fits one object alone is a hit if its response map has its maximum on that object's visible pixels. The
scenes are those that no weight was trained on. `category_alone` names the category of an object that is the scene's
only one of it; `full_description_among_alike` says all words of an object that shares its category with others.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import torch
import torch.nn.functional as F
import typer
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from rich.console import Console
from rich.progress import track

from evidence.experiments.quality.markdown_cells import as_json, cell, markdown_table
from evidence.recipes.scene_texts import realise
from pseudoris.primitives.clip_tokenizer import ClipTokenizer
from pseudoris.schemas.config import WeightsConfig
from pseudoris.schemas.estimate import ImageBootstrap, Sums
from pseudoris.synthworld.grammar import Description
from pseudoris.synthworld.renderer import RenderedScene, render
from pseudoris.synthworld.scene_truth import referents
from pseudoris.synthworld.scenes import Scene, Split, make_scene
from pseudoris.training.learning.clip_features import read_images, read_texts, response_map
from pseudoris.workers.checkpoints.openclip import load_clip

ARCHITECTURE: Final = "builtin:tiny/scene_clip.json"
WEIGHTS: Final = "builtin:tiny/scene_clip.safetensors"
# The category is named, and one object of the scene is of it.
NAMED: Final = "category_alone"
# Every word of the object is said, and other objects of the scene share its category.
DESCRIBED: Final = "full_description_among_alike"
CHANCE, ANY_OBJECT = "_chance", "_any_object"


@dataclass(frozen=True)
class Question:
    """A caption that fits one object of a scene, by its number, and the kind under which its answer counts."""

    kind: str
    caption: str
    number: int


def questions(scene: Scene) -> list[Question]:
    """Return a caption an object where one fits it alone: its category, or, among others of it, all its words."""
    categories = [item.attributes.category for item in scene.objects]
    asked = []
    for number, item in enumerate(scene.objects):
        truth = item.attributes
        alone = categories.count(truth.category) == 1
        full = Description(truth.category, truth.colour, truth.pattern, truth.size, truth.part)
        caption = realise(Description(truth.category) if alone else full, opening="a photo of")
        if referents(caption, scene) == frozenset((number,)):
            asked.append(Question(NAMED if alone else DESCRIBED, caption, number))
    return asked


class Pointer:
    """A CLIP that answers a caption with a place in the image."""

    def __init__(self, architecture: str = ARCHITECTURE, weights: str = WEIGHTS) -> None:
        """Load the model."""
        self._model = load_clip(architecture, WeightsConfig(uri=weights))
        self._tokenise = ClipTokenizer(int(self._model.context_length))

    def maps(self, image: np.ndarray, captions: list[str]) -> np.ndarray:
        """Return the responses (T, H, W) float32 of an image (H, W, 3) uint8 RGB to T captions, at its own size."""
        mean, std = torch.tensor(OPENAI_DATASET_MEAN), torch.tensor(OPENAI_DATASET_STD)
        pixels = ((torch.from_numpy(np.array(image)).float() / 255 - mean) / std).permute(2, 0, 1)
        with torch.inference_mode():
            texts = read_texts(self._model, self._tokenise(captions)).embedding
            dense = read_images(self._model, pixels[None]).dense
            response = response_map(dense.expand(len(texts), -1, -1, -1), texts)
            grown = F.interpolate(response[:, None], size=image.shape[:2], mode="bicubic", align_corners=False)
        return np.asarray(grown[:, 0])


def point_at(pointer: Pointer, scene: Scene, painted: RenderedScene | None = None) -> Sums:
    """Return numerator and denominator of each figure of one scene.

    A hit: the response map's maximum lies on a visible pixel of the named object. Beside it, under `_any_object`,
    whether it lies on any object; under `_chance`, the share of the image's pixels that are the named object's.
    """
    painted = render(scene) if painted is None else painted
    asked = questions(scene)
    sums: dict[str, tuple[float, float]] = {}
    if not asked:
        return sums
    maps = pointer.maps(painted.image, [question.caption for question in asked])
    for question, response in zip(asked, maps, strict=True):
        row, column = np.unravel_index(int(response.argmax()), response.shape)
        mask = painted.masks[question.number]
        for ending, value in (
            ("", float(mask[row, column])),
            (ANY_OBJECT, float(painted.masks[:, row, column].any())),
            (CHANCE, float(mask.mean())),
        ):
            top, count = sums.get(question.kind + ending, (0.0, 0.0))
            sums[question.kind + ending] = (top + value, count + 1)
    return sums


def main(
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    scenes: Annotated[int, typer.Option(min=1, help="How many scenes.")] = 500,
    split: Annotated[Split, typer.Option(help="Tune on development, report on test.")] = Split.TEST,
    weights: Annotated[str, typer.Option(help="Other weights of the same architecture.")] = WEIGHTS,
) -> None:
    """Print how often the response map hits the object that a caption names."""
    torch.set_num_threads(1)
    pointer = Pointer(ARCHITECTURE, weights)
    shown = track(range(scenes), description="scenes", console=Console(stderr=True))
    bootstrap = ImageBootstrap([point_at(pointer, make_scene(split, position)) for position in shown])
    found = {name: (as_json(bootstrap.ratio(name)), bootstrap.total(name)[1]) for name in bootstrap.names}
    rows = [(name, cell(share), f"{captions:,.0f}") for name, (share, captions) in found.items()]
    typer.echo(markdown_table((f"{scenes} {split} scenes", "share", "captions"), rows))
    if json_path is not None:
        json_path.write_text(json.dumps(_figures(bootstrap, scenes, split), indent=2) + "\n", encoding="utf-8")


def _figures(bootstrap: ImageBootstrap, scenes: int, split: Split) -> dict[str, object]:
    report: dict[str, object] = {"scenes": scenes, "split": str(split)}
    for name in bootstrap.names:
        estimate = bootstrap.ratio(name)
        report[name] = estimate.value
        report[f"{name}_interval"] = [estimate.low, estimate.high]
        report[f"{name}_captions"] = int(bootstrap.total(name)[1])
    return report


if __name__ == "__main__":
    typer.run(main)
