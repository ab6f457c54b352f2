"""Points at what captions name, scene by scene, and counts the hits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

from schemas.config import WeightsConfig
from synthworld.attributes import CATEGORIES
from synthworld.grammar import Description, realise
from synthworld.oracle import refers_to
from synthworld.render import Rendered, render
from synthworld.scenes import Scene, Split, make_scene
from training.evaluation.bootstrap import Sums
from workers.checkpoints.models import load_clip
from workers.filtering.tokens import TextTokeniser
from workers.towers import read_images, read_texts, response_map

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
        if refers_to(caption, scene, number):
            asked.append(Question(NAMED if alone else DESCRIBED, caption, number))
    return asked


class Pointer:
    """A CLIP that answers a caption with a place in the image."""

    def __init__(self, architecture: str = ARCHITECTURE, weights: str = WEIGHTS, *, is_surgical: bool = False) -> None:
        """Loads the model; `is_surgical` takes off what a patch answers to every category alike."""
        self._model = load_clip(architecture, WeightsConfig(uri=weights))
        self._tokenise = TextTokeniser(int(self._model.context_length))
        self._redundant = self._embed([f"a photo of a {word}" for word in CATEGORIES]) if is_surgical else None

    def maps(self, image: np.ndarray, captions: list[str]) -> np.ndarray:
        """Return the responses (T, H, W) float32 of an image (H, W, 3) uint8 RGB to T captions, at its own size."""
        mean, std = torch.tensor(OPENAI_DATASET_MEAN), torch.tensor(OPENAI_DATASET_STD)
        pixels = ((torch.from_numpy(np.array(image)).float() / 255 - mean) / std).permute(2, 0, 1)
        texts = self._embed(captions)
        with torch.inference_mode():
            dense = read_images(self._model, pixels[None]).dense
            response = response_map(dense.expand(len(texts), -1, -1, -1), texts, redundant=self._redundant)
            grown = F.interpolate(response[:, None], size=image.shape[:2], mode="bicubic", align_corners=False)
        return np.asarray(grown[:, 0])

    def _embed(self, captions: list[str]) -> torch.Tensor:
        """Embeddings (T, D)."""
        with torch.inference_mode():
            return read_texts(self._model, self._tokenise(captions)).embedding


def point_at(pointer: Pointer, scene: Scene, painted: Rendered | None = None) -> Sums:
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


def point_at_split(pointer: Pointer, split: Split, count: int, *, seed: int = 0) -> Iterator[Sums]:
    """Yields the figures of the first `count` scenes of a split."""
    for position in range(count):
        yield point_at(pointer, make_scene(split, position, seed=seed))
