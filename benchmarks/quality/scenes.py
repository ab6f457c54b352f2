"""Scenes as annotated runs: their true masks, and what a person would say of each object, through `pseudoris import`.

So a student is trained on the truth, and held-out scenes are asked, over the very path that pseudo-labels take.

    python -m benchmarks.quality.scenes OUT --split test --scenes 150 [--world second]
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image

from schemas.config_loading import load_config
from store.location import RunLocation
from store.receipts import list_receipts
from synthworld.demo import scene_truth
from synthworld.expressions import person_expressions
from synthworld.render import Rendered, render
from synthworld.scenes import Scene, Split, make_scene
from synthworld.worlds import DEFAULT_WORLD
from training.imports import ImportRequest, import_annotation
from workers.masks import rle

IMAGES_FOLDER, RUN_FOLDER = "images", "run"
TRUTH_NAME, ANNOTATION_NAME = "truth.json", "annotation.json"

# What is said of an object of a scene, by its number.
Speaker = Callable[[Scene, int], Sequence[str]]


def said_by_people(scene: Scene, number: int) -> list[str]:
    """Return the two or three expressions of an object that `synthworld.expressions` gives it."""
    return [each.text for each in person_expressions(scene, number)]


def annotated_scenes(
    folder: Path,
    *,
    split: Split,
    num_scenes: int,
    first: int = 0,
    seed: int = 0,
    world: str = DEFAULT_WORLD,
    speaker: Speaker = said_by_people,
) -> Path:
    """Write scenes and their annotation below a folder, import them, and return the run; what is done stays done.

    The images, `folder/images/scene-00000.png` and on, embedded in the run too, can be annotated by models as any
    other folder, and `folder/truth.json` is the truth of `pseudoris evaluate`.

    Args:
        folder: Of this set of scenes alone.
        split: Which scenes.
        num_scenes: How many of them.
        first: The position of the first.
        seed: Of the scenes.
        world: How they look, and what is frequent in them.
        speaker: Says what of an object; an object of which nothing is said has a mask all the same.
    """
    run = RunLocation.open(str(folder / RUN_FOLDER))
    if not list_receipts(run):
        write_scenes(folder, [make_scene(split, first + n, seed=seed, world=world) for n in range(num_scenes)], speaker)
    request = ImportRequest(
        str(folder / ANNOTATION_NAME),
        str(folder / IMAGES_FOLDER),
        load_config("tiny", None, ["shards.max_images=64", "shards.embed_images=true"]),
        "coco",
        num_workers=len(os.sched_getaffinity(0)),
    )
    import_annotation(request, run, on_progress=lambda done, total: None, on_wait=lambda text: None)
    return folder / RUN_FOLDER


def write_scenes(folder: Path, scenes: Sequence[Scene], speaker: Speaker) -> None:
    """Write the images, the truth, and COCO JSON with captions an object."""
    (folder / IMAGES_FOLDER).mkdir(parents=True, exist_ok=True)
    truth: dict[str, Any] = {}
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for number, scene in enumerate(scenes):
        name = f"scene-{number:05d}.png"
        painted = render(scene)
        (folder / IMAGES_FOLDER / name).write_bytes(_png(painted.image))
        height, width = painted.image.shape[:2]
        truth[name] = scene_truth(scene)
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        objects += _objects(scene, painted, number, len(objects), speaker)
    document = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "object"}]}
    (folder / TRUTH_NAME).write_text(json.dumps(truth) + "\n", encoding="utf-8")
    (folder / ANNOTATION_NAME).write_text(json.dumps(document) + "\n", encoding="utf-8")


def _objects(scene: Scene, painted: Rendered, image: int, first: int, speaker: Speaker) -> list[dict[str, Any]]:
    """Return COCO's rows of a scene's objects; one that others hide whole has no mask and no row."""
    counts = rle.encode(torch.from_numpy(painted.masks))
    size = (painted.masks.shape[1], painted.masks.shape[2])
    rows: list[dict[str, Any]] = []
    for number, area in enumerate(rle.areas(counts, size).tolist()):
        if area:
            segmentation = {"size": list(size), "counts": counts[number]}
            named = {"id": first + len(rows), "image_id": image, "category_id": 1, "iscrowd": 0, "area": area}
            rows.append({**named, "segmentation": segmentation, "captions": list(speaker(scene, number))})
    return rows


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def main(
    out: Annotated[Path, typer.Argument(help="A folder; the run is OUT/run.")],
    split: Annotated[Split, typer.Option(help="Which scenes.")] = Split.TEST,
    scenes: Annotated[int, typer.Option(min=1, help="How many.")] = 150,
    first: Annotated[int, typer.Option(min=0, help="The position of the first.")] = 0,
    world: Annotated[str, typer.Option(help="default, second or shifted.")] = DEFAULT_WORLD,
) -> None:
    """Write scenes as a run of human annotation."""
    typer.echo(annotated_scenes(out, split=split, num_scenes=scenes, first=first, world=world))


if __name__ == "__main__":
    typer.run(main)
