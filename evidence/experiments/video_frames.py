"""How near the perceptual hashes of a video's frames are: `python -m evidence.experiments.video_frames PHOTOS`.

There is no video among the assets, so frames are made. *Pan*: a window of 60 % of a photograph's sides moves across it
from left to right, by a share of its own width a frame, at sub-pixel places. *Moving thing*: one object of a drawn
scene moves from left to right before a camera that stands still. Each frame has noise of its own and is JPEG 85, as a
frame that was cut out of a video.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from PIL import Image

from pseudoris.images.perceptual_hash import DEFAULT_MAX_DISTANCE, perceptual_hash
from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scenes import SCENE_SIZE_PX, Split, make_scene

NUM_FRAMES: Final = 51
APART: Final = (1, 5, 25)
SPEEDS: Final = (0.001, 0.0025, 0.005, 0.01)
_WINDOW: Final = 0.6
_NOISE: Final = 2.0
_QUALITY: Final = 85


def frame_hash(pixels: np.ndarray, rng: np.random.Generator) -> int:
    """Return the hash of (H, W, 3) uint8 pixels with noise, as JPEG."""
    noisy = np.clip(np.rint(pixels + rng.normal(0, _NOISE, pixels.shape)), 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(file := io.BytesIO(), "JPEG", quality=_QUALITY)
    return int(perceptual_hash(np.asarray(Image.open(file).convert("RGB"))), 16)


def panned(photo: Image.Image, speed: float) -> Iterator[np.ndarray]:
    """Yield the frames of a pan; the window moves `speed` of its width a frame, and ends inside the photograph."""
    width, height = (round(_WINDOW * side) for side in photo.size)
    for number in range(NUM_FRAMES):
        left, top = number * speed * width, (photo.height - height) / 2
        place = (1.0, 0.0, left, 0.0, 1.0, top)
        yield np.asarray(photo.transform((width, height), Image.Transform.AFFINE, place, Image.Resampling.BILINEAR))


def moved(position: int, speed: float) -> Iterator[np.ndarray]:
    """Yield the frames of a drawn scene whose last object, which hides others, moves `speed` of the width a frame."""
    scene = make_scene(Split.DEVELOPMENT, position)
    *others, last = scene.objects
    for number in range(NUM_FRAMES):
        x = (0.25 + number * speed) * SCENE_SIZE_PX
        yield render(replace(scene, objects=(*others, replace(last, centre_xy_px=(x, last.centre_xy_px[1]))))).image


def figures(clips: Iterable[list[int]]) -> dict[str, Any]:
    """Return what clips of hashes show: by frames apart, mean distance and share found; frames of a clip that stay."""
    held = list(clips)
    apart = {
        gap: [(a ^ b).bit_count() for clip in held for a, b in zip(clip, clip[gap:], strict=False)] for gap in APART
    }
    num_kept = 0
    for clip in held:
        kept: list[int] = []
        for bits in clip:
            if all((bits ^ other).bit_count() > DEFAULT_MAX_DISTANCE for other in kept):
                kept.append(bits)
        num_kept += len(kept)
    rows = {
        str(gap): {
            "pairs": len(found),
            "mean": float(np.mean(found)),
            "median": float(np.median(found)),
            "found": float(np.mean(np.array(found) <= DEFAULT_MAX_DISTANCE)),
        }
        for gap, found in apart.items()
    }
    return {"clips": len(held), "apart": rows, "kept_of_a_clip": num_kept / len(held)}


def main(
    photos: Annotated[Path, typer.Argument(help="Folder of photographs, JPEG.")],
    scenes: Annotated[int, typer.Option(help="Number of drawn scenes.")] = 33,
    record: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
) -> None:
    """Print the figures by kind of clip."""
    rng, found = np.random.default_rng(0), dict[str, Any]()
    pictures = [Image.open(path).convert("RGB") for path in sorted(photos.glob("*.jpg"))]
    for speed in SPEEDS:
        clips = ([frame_hash(each, rng) for each in panned(picture, speed)] for picture in pictures)
        found[f"pan, {speed:.2%} of the width a frame"] = figures(clips)
    for speed in SPEEDS[2:]:
        clips = ([frame_hash(each, rng) for each in moved(position, speed)] for position in range(scenes))
        found[f"a moving thing, {speed:.2%} of the width a frame"] = figures(clips)
    for name, each in found.items():
        cells = (f"{row['mean']:.1f} ({row['found']:.0%})" for row in each["apart"].values())
        print("|", " | ".join((name, *cells, f"{each['kept_of_a_clip']:.1f} of {NUM_FRAMES}")), "|")
    if record is not None:
        record.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
