"""Writes object-centric images like ImageNet's: one large object in the middle, in a folder for its category.

`python -m evidence.recipes.object_centric FOLDER --images 600` writes FOLDER/images/<category>/*.png, and
FOLDER/truth.json with each object's words and exact mask. No recipe reads truth.json; `ppt_data` compares with
it. `ppt` and tests write such images too.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import torch
import typer
from pycocotools import mask as coco

from evidence.recipes.scene_shards import encode_png
from pseudoris.primitives import rle
from pseudoris.primitives.untrusted import parse_json
from pseudoris.synthworld.attributes import CATEGORIES, COLOURS, PARTS, PATTERNS, Attributes, is_held_out
from pseudoris.synthworld.demo import IMAGE_FOLDER, TRUTH_FILE, write_unless_equal
from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scenes import REACH, SCENE_SIZE_PX, Scene, SceneObject, generator

# Above every split of scenes, so that no object-centric image has a scene's index.
_FIRST_INDEX: Final = 4_000_000
_LAYOUT_STREAM: Final = 0
# From a quarter to half of the image's side across: twice the objects of scenes.
_RADIUS_RANGE_PX: Final = (26.0, 46.0)
_OFF_CENTRE_PX: Final = 14.0
_WITH_PART_SHARE: Final = 0.4


def object_centric_scene(position: int, *, seed: int = 0) -> Scene:
    """Return the scene at `position`: one object about the middle, of the categories in turn.

    It never shows a held-out pair of category and colour: learners train on it.
    """
    rng = generator(seed, _FIRST_INDEX + position, stream=_LAYOUT_STREAM)
    category = CATEGORIES[position % len(CATEGORIES)]
    colours = [colour for colour in COLOURS if not is_held_out(category, colour)]
    attributes = Attributes(
        category=category,
        colour=colours[int(rng.integers(len(colours)))],
        pattern=PATTERNS[int(rng.integers(len(PATTERNS)))],
        size="large",
        part=PARTS[int(rng.integers(len(PARTS)))] if rng.random() < _WITH_PART_SHARE else None,
    )
    item = _placed(rng, attributes)
    return Scene(seed, _FIRST_INDEX + position, (item,))


def _placed(rng: np.random.Generator, attributes: Attributes) -> SceneObject:
    """The object with its whole outline inside the image, as near to the middle as it was drawn."""
    left, top, right, bottom = REACH[attributes.part]
    largest = SCENE_SIZE_PX / max(left + right, top + bottom)
    radius = min(float(rng.uniform(*_RADIUS_RANGE_PX)), largest)
    drawn = SCENE_SIZE_PX / 2 + rng.uniform(-_OFF_CENTRE_PX, _OFF_CENTRE_PX, size=2)
    x = float(np.clip(drawn[0], left * radius, SCENE_SIZE_PX - right * radius))
    y = float(np.clip(drawn[1], top * radius, SCENE_SIZE_PX - bottom * radius))
    tint = tuple(int(v) for v in rng.integers(-12, 13, size=3))
    return SceneObject(attributes, (x, y), radius, float(rng.uniform(-12.0, 12.0)), (tint[0], tint[1], tint[2]))


def write_object_centric(folder: Path, *, num_images: int, seed: int = 0) -> Path:
    """Writes `images/<category>/` and `truth.json` into a folder; returns the folder of images.

    Existing files with the same bytes are not rewritten.
    """
    truth: dict[str, object] = {}
    for position in range(num_images):
        scene = object_centric_scene(position, seed=seed)
        rendered = render(scene)
        name = f"{scene.objects[0].attributes.category}/{position:05d}.png"
        path = folder / IMAGE_FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_unless_equal(path, encode_png(rendered.image))
        (counts,) = rle.encode(torch.from_numpy(rendered.masks))
        truth[name] = {
            "object": asdict(scene.objects[0]),
            "segmentation": {"size": list(rendered.masks.shape[1:]), "counts": counts},
        }
    write_unless_equal(folder / TRUTH_FILE, (json.dumps(truth, indent=1) + "\n").encode())
    return folder / IMAGE_FOLDER


def read_true_masks(folder: Path) -> dict[str, np.ndarray]:
    """Return the exact mask (H, W) bool of each image that `write_object_centric` wrote, by its path in `images/`."""
    truth = parse_json((folder / TRUTH_FILE).read_text(encoding="utf-8"))
    return {name: coco.decode(row["segmentation"]).astype(bool) for name, row in truth.items()}


def main(
    folder: Annotated[Path, typer.Argument(help="Folder for the images.")],
    images: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Number of images. The categories take turns.")
    ] = 600,
    seed: Annotated[int, typer.Option(min=0, help="Another seed gives other images of the same kind.")] = 0,
) -> None:
    """Writes object-centric images."""
    typer.echo(write_object_centric(folder, num_images=images, seed=seed))


if __name__ == "__main__":
    typer.run(main)
