"""Scenes as a truth to evaluate against: repainted masks, an oracle for texts. For `cli`, users and experiments.

Fulfils the protocols of `pseudoris.training.evaluation.truth`, which this room may not import. A truth file comes from
a user: words and places that cannot be painted are refused before anything is painted.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, cached_property
from typing import ClassVar, Final

import numpy as np
from pycocotools import mask as coco
from pydantic import TypeAdapter

from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.untrusted import parse_json
from pseudoris.schemas.ids import image_id
from pseudoris.synthworld.attributes import CATEGORIES, COLOURS, PARTS, PATTERNS, SIZES, is_held_out
from pseudoris.synthworld.demo import TRUTH_FILE
from pseudoris.synthworld.grammar import parse_reference
from pseudoris.synthworld.oracle import meant
from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scenes import SCENE_SIZE_PX, Scene
from pseudoris.synthworld.worlds import DEFAULT_WORLD, WORLDS

SEEN: Final = "seen"
HELD_OUT: Final = "held_out"
_NAMES: Final = ("category", "colour", "pattern", "size", "part")
_WORDS: Final[Mapping[str, tuple[str | None, ...]]] = {
    "category": CATEGORIES,
    "colour": tuple(COLOURS),
    "pattern": PATTERNS,
    "size": SIZES,
    "part": (*PARTS, None),
}
_SCENES: Final = TypeAdapter(dict[str, Scene | None])


class SceneImageTruth:
    """The objects of one scene, in its painting order."""

    def __init__(self, scene: Scene, masks: np.ndarray | None = None) -> None:
        """Takes a scene; its visible masks (N, 192, 192) bool where they are painted already."""
        self._scene = scene
        self._masks = masks
        # Parsing is cached, because an ablation compares systems that write the same texts thousands of times.
        self._parsed = cache(parse_reference)
        self._referents: dict[str, frozenset[int] | None] = {}
        self._stated: dict[tuple[str, int], tuple[int, int, int]] = {}

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return SCENE_SIZE_PX, SCENE_SIZE_PX

    @cached_property
    def masks(self) -> list[str]:
        """COCO compressed RLE of each object's visible pixels; painted on first use."""
        masks = render(self._scene).masks if self._masks is None else self._masks
        encoded = coco.encode(np.asfortranarray(masks.transpose(1, 2, 0), dtype=np.uint8))
        return [each["counts"].decode() for each in encoded]

    def referents(self, text: str) -> frozenset[int] | None:
        """Return the objects that a text means, as the oracle reads it; None if it cannot be decided."""
        if text not in self._referents:
            said = self._parsed(text)
            self._referents[text] = None if said is None else meant(said, self._scene)
        return self._referents[text]

    def attributes(self, text: str, number: int) -> tuple[int, int, int]:
        """Return how many attributes a text states, how many of these are true, how many the object has.

        Category, colour, pattern, size and part of the object itself count; a place, a relation and its anchor do not.
        A text that cannot be parsed has no attributes.
        """
        if (text, number) not in self._stated:
            truth, said = self._scene.objects[number].attributes, self._parsed(text)
            noun = None if said is None else said.noun
            stated = [name for name in _NAMES if getattr(noun, name, None) is not None]
            num_true = sum(getattr(noun, name) == getattr(truth, name) for name in stated)
            known = sum(getattr(truth, name) is not None for name in _NAMES)
            self._stated[text, number] = len(stated), num_true, known
        return self._stated[text, number]

    def num_alike(self, number: int) -> int:
        """Return how many other objects are of the same category."""
        category = self._scene.objects[number].attributes.category
        return sum(item.attributes.category == category for item in self._scene.objects) - 1

    def group(self, number: int) -> str:
        """Return whether training scenes contain the object's pair of category and colour."""
        truth = self._scene.objects[number].attributes
        return HELD_OUT if is_held_out(truth.category, truth.colour) else SEEN


class SceneTruth:
    """The scenes of a demonstration set, by the names of their files."""

    file_name: ClassVar[str] = TRUTH_FILE
    groups: tuple[str, ...] = (SEEN, HELD_OUT)
    notes: tuple[str, ...] = ()
    unjudged_kinds: tuple[str, ...] = ()
    judges_texts: bool = True

    def __init__(self, scenes: Mapping[str, Scene], title: str) -> None:
        """Takes scenes by the keys of their images, relative to the folder of images."""
        self.title, self.num_images, self.example_key = title, len(scenes), next(iter(scenes), None)
        self._scenes = {image_id(key): scene for key, scene in scenes.items()}

    @classmethod
    def from_json(cls, data: bytes, name: str) -> SceneTruth:
        """Return the truth that `synthworld.demo` wrote next to its folder of images; broken files have no truth.

        Raises:
            ConfigError: It is not such a file; `name` is in the message.
        """
        try:
            scenes = _SCENES.validate_python(parse_json(data))
        except ValueError as error:
            raise ConfigError(
                f"{name} is not a truth of the synthetic world ({type(error).__name__}). Name the truth.json that "
                "`python -m pseudoris.synthworld.demo FOLDER` writes beside FOLDER/images."
            ) from error
        known = {key: scene for key, scene in scenes.items() if scene is not None}
        for key, scene in known.items():
            _check(scene, f"{name}: {key!r}")
        # The title does not name the default world, to which scenes of older files without a world belong.
        others = sorted({scene.world for scene in known.values()} - {DEFAULT_WORLD})
        return cls(known, f"synthetic world{''.join(f' {world!r}' for world in others)}, {name}")

    def of_image(self, image_id: str) -> SceneImageTruth | None:
        """Return the objects of a scene by its image's id; None if no scene has this id."""
        scene = self._scenes.get(image_id)
        return None if scene is None else SceneImageTruth(scene)


def _check(scene: Scene, where: str) -> None:
    """Refuses worlds that there are not, words that no world has, and objects too large to be painted."""
    if scene.world not in WORLDS:
        raise ConfigError(f"{where} has the world {scene.world!r}. The worlds are {', '.join(WORLDS)}.")
    if not (0 <= scene.seed < 2**32 and 0 <= scene.index < 2**32):
        raise ConfigError(f"{where} has seed {scene.seed} and index {scene.index}. Numbers from 0 to 2^32 are allowed.")
    if not scene.objects:
        raise ConfigError(f"{where} has no object, but a scene has at least one. Get the file again.")
    for item in scene.objects:
        for name in _NAMES:
            word = getattr(item.attributes, name)
            if word not in _WORDS[name]:
                raise ConfigError(f"{where} has the {name} {word!r}, which the synthetic world does not know")
        places = (*item.centre_xy_px, item.radius_px)
        if not all(0 <= place <= SCENE_SIZE_PX for place in places):
            raise ConfigError(f"{where} has an object at {places}. Up to {SCENE_SIZE_PX} pixels are allowed.")
