"""Writes the demonstration set: drawn images, broken files, the truth. For `cli`, `evidence` and users.

`python -m pseudoris.synthworld.demo FOLDER [--scenes 64] [--world second]` writes the same bytes every time. A second
call leaves the files alone: runs of the set see an unchanged SOURCE.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image

from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.uris import make_folder
from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scenes import DEFAULT_WORLD, WORLDS, Scene, Split, make_scene, world_named

TRUTH_FILE = "truth.json"
IMAGE_FOLDER = "images"
_FORMATS: dict[str, dict[str, Any]] = {
    ".jpg": {"format": "JPEG", "quality": 95},
    ".webp": {"format": "WEBP", "lossless": True},
    ".png": {"format": "PNG"},
}


def write_demo(folder: Path, *, num_scenes: int = 64, seed: int = 0, world: str = DEFAULT_WORLD) -> Path:
    """Writes `images/` and `truth.json` into a folder; returns the folder of images.

    Raises:
        ConfigError: The world is unknown, or the folder cannot be made.
    """
    world_named(world)
    images = folder / IMAGE_FOLDER
    make_folder(images)
    truth: dict[str, object] = {}
    for position in range(num_scenes):
        scene = make_scene(Split.DEMO, position, seed=seed, world=world)
        # Every eighth scene is a JPEG and every ninth a WebP. The others are PNG, as in the tiny models' training.
        suffix = ".jpg" if position % 8 == 7 else ".webp" if position % 9 == 8 else ".png"
        name = f"scene-{position:03d}{suffix}"
        write_unless_equal(images / name, _encode(render(scene).image, suffix))
        truth[name] = scene_truth(scene)
    pixels = render(make_scene(Split.DEMO, 999, seed=0)).image
    jpeg, png = _encode(pixels, ".jpg"), _encode(pixels, ".png")
    broken_files = {
        "broken-truncated.jpg": jpeg[: len(jpeg) // 2],
        "broken-zero-bytes.jpg": b"",
        "broken-text.jpg": b"This is a shopping list, not a picture: apples, pears, plums.\n",
        "broken-header-only.png": png[:40],
        "broken-scrambled.png": png[:60] + bytes(reversed(png[60:])),
    }
    for name, broken in broken_files.items():
        write_unless_equal(images / name, broken)
        truth[name] = None
    write_unless_equal(folder / TRUTH_FILE, (json.dumps(truth, indent=1) + "\n").encode())
    return images


def scene_truth(scene: Scene) -> dict[str, object]:
    """Return a scene as plain JSON values."""
    objects = [asdict(item) for item in scene.objects]
    return {"seed": scene.seed, "index": scene.index, "world": scene.world, "objects": objects}


def _encode(pixels: np.ndarray, suffix: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **_FORMATS[suffix])
    return buffer.getvalue()


def write_unless_equal(path: Path, data: bytes) -> None:
    """Writes unless the file holds these bytes: a run in progress must not see its input change."""
    if not path.is_file() or path.read_bytes() != data:
        path.write_bytes(data)


def main(
    folder: Annotated[Path, typer.Argument(help="Folder for the images.")],
    scenes: Annotated[int, typer.Option(min=1, max=900, help="Number of scenes.")] = 64,
    world: Annotated[
        str, typer.Option(help=f"World of the scenes (their look and objects): {', '.join(WORLDS)}.")
    ] = DEFAULT_WORLD,
) -> None:
    """Writes the demonstration set."""
    try:
        typer.echo(write_demo(folder, num_scenes=scenes, world=world))
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from error


if __name__ == "__main__":
    typer.run(main)
