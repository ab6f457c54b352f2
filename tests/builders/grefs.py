"""Drawn scenes as gRefCOCO has them: what simulated annotators say of each object, and what means nothing there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np

from evidence.experiments.quality.scene_runs import (
    ANNOTATION_NAME,
    IMAGES_FOLDER,
    RUN_FOLDER,
    SceneRun,
    image_name,
    imported,
    said_by_annotators,
    write_scenes,
)
from pseudoris.primitives import rle
from pseudoris.synthworld.attributes import CATEGORIES, COLOURS, PARTS, PATTERNS, PLURALS, SIZES
from pseudoris.synthworld.scene_truth import SceneImageTruth
from pseudoris.synthworld.scenes import SCENE_SIZE_PX, Scene
from tests.builders.human import reference

# Of each sort of absence; a scene has about five objects, each with two or three expressions.
NUM_ABSENT: Final = 3
# What may take the place of a word that describes.
_SLOTS: Final = (CATEGORIES, tuple(PLURALS.values()), tuple(COLOURS), PATTERNS, SIZES, PARTS)
_CHANGED: Final = {word: slot for slot in _SLOTS for word in slot}


def grefs_run(folder: Path, scenes: SceneRun) -> str:
    """Write scenes with expressions of their objects and of none, import them, and return the run."""
    drawn = scenes.all()
    write_scenes(folder, drawn)
    instances = (folder / ANNOTATION_NAME).rename(folder / "instances.json")
    refs = list(_refs(drawn, json.loads(instances.read_text())["annotations"]))
    (folder / "grefs(unc).json").write_text(json.dumps(refs))
    words = ("shards.max_images=64", "shards.embed_images=true")
    return str(imported(folder, folder / IMAGES_FOLDER, folder / RUN_FOLDER, "grefcoco", words, ("val",)))


def absent_texts(scenes: Sequence[Scene], at: int) -> list[str]:
    """Return expressions that mean nothing in a scene, by the oracle's word.

    The first are near: what annotators say of its objects, one word changed for another that is said of the scene.
    The others are what they say of the scenes that follow.
    """
    truth, found = SceneImageTruth(scenes[at]), list[str]()
    for texts in (_changed(scenes[at], at), _said_elsewhere(scenes, at)):
        absent = (text for text in texts if text not in found and truth.referents(text) == frozenset())
        found += islice(dict.fromkeys(absent), NUM_ABSENT)
    return found


def _said_elsewhere(scenes: Sequence[Scene], at: int) -> Iterator[str]:
    """Yield one expression of each other scene, so that few of them are alike."""
    for step in range(1, len(scenes)):
        said = _said(scenes[(at + step) % len(scenes)])
        yield from said[step % max(len(said), 1) :][:1]


def _changed(scene: Scene, at: int) -> Iterator[str]:
    rng, said = np.random.default_rng(at), _said(scene)
    heard = sorted({word for text in said for word in text.split()})
    for text in rng.permutation(said).tolist():
        words = text.split()
        others = [[each for each in heard if each != word and each in _CHANGED.get(word, ())] for word in words]
        places = [place for place, found in enumerate(others) if found]
        if places:
            place = int(rng.choice(places))
            yield " ".join((*words[:place], str(rng.choice(others[place])), *words[place + 1 :]))


def _said(scene: Scene) -> list[str]:
    return [text for number in range(len(scene.objects)) for text in said_by_annotators(scene, number)]


def _refs(scenes: Sequence[Scene], rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield references; hidden objects have no row of `annotations`, so rows are matched by their order."""
    said: list[tuple[int, int, list[str]]] = []
    for at, scene in enumerate(scenes):
        own = [row["id"] for row in rows if row["image_id"] == at]
        areas = rle.areas(SceneImageTruth(scene).masks, (SCENE_SIZE_PX, SCENE_SIZE_PX)).tolist()
        visible = [number for number, area in enumerate(areas) if area]
        said += [(at, id_, said_by_annotators(scene, number)) for number, id_ in zip(visible, own, strict=True)]
        said += [(at, -1, [text]) for text in absent_texts(scenes, at)]
    for number, (at, id_, texts) in enumerate(said):
        yield reference(number, id_, at, *texts, split="val", file_name=image_name(at), ann_id=[id_], category_id=[1])
