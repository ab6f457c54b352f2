"""What the tables of a run say of each image, and how much of it a loader gives back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pseudoris.files.location import RunLocation
from pseudoris.interchange.exports.image_files import image_file_of
from pseudoris.primitives.rle import decode
from pseudoris.store.tables.annotations import AnnotatedImage, iter_annotations
from pseudoris.store.tables.open_run import OpenRun
from pseudoris.synthworld.demo import write_demo

NUM_SCENES: Final = 64
KINDS: Final = ("one", "several", "none")
_SETTINGS: Final = ("--preset", "tiny-composed", "--address", "local", "--set", "shards.embed_images=true")


@dataclass(frozen=True)
class Seen:
    """What a loader gives of an expression.

    Attributes:
        image: Name of the image's file, or its id.
        text: As the model gets it.
        mask: All its targets together, (height, width) bool, in the image's own pixels; None if it gives boxes alone.
        boxes: [x0, y0, x1, y1] of each target; None if it gives masks alone.
        frame: (width, height) that the boxes are counted in; None is the image's own.
    """

    image: str
    text: str
    mask: NDArray[np.bool_] | None = None
    boxes: Sequence[Sequence[float]] | None = None
    frame: tuple[int, int] | None = None


class _Said(NamedTuple):
    """An expression of the tables: its masks as one, (height, width) bool, and the box [x0, y0, x1, y1] of each, px."""

    kind: str
    mask: NDArray[np.bool_]
    boxes: list[tuple[int, int, int, int]]

    def is_shown(self, seen: Seen) -> bool:
        """Return whether the mask and the boxes that a loader gives are these."""
        if seen.mask is not None and not np.array_equal(seen.mask, self.mask):
            return False
        if seen.boxes is None:
            return seen.mask is not None
        size = self.mask.shape[::-1]
        scales = [new / old for new, old in zip(seen.frame or size, size, strict=True)] * 2
        due = [[round(edge * scale) for edge, scale in zip(box, scales, strict=True)] for box in self.boxes]
        return sorted(list(map(float, box)) for box in seen.boxes) == sorted(due)


def figures_of(run: RunLocation, seen: Iterable[Seen]) -> dict[str, Any]:
    """Return what a loader gave of the kept expressions of a run, `wrong` and by the number of their masks (`KINDS`).

    `tables` are all, `read` those that it gave with the very masks or boxes; `wrong` counts those that it gave with
    others, or that the run does not hold. `pixels` are those of the masks of all expressions, `pixels_read` those of
    them that it gave; `pixels_wrong` differ in the masks that it gave, None if it gave boxes alone.
    """
    tables, read, wrong = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0), 0
    pixels, pixels_read, pixels_wrong = 0, 0, None
    names, left = dict[str, str](), dict[tuple[str, str], list[_Said]]()
    opened = OpenRun.at(run)
    limits = opened.header.config.images
    for image in iter_annotations(opened.shards(), kept_only=True, with_bytes=True):
        if of_image := list(_said(image)):
            names[image_file_of(image, limits).name] = image.image_id
        for text, said in of_image:
            left.setdefault((image.image_id, text), []).append(said)
            tables[said.kind] += 1
            pixels += int(said.mask.sum())
    for each in seen:
        same = left.get((names.get(each.image, each.image), each.text.strip().lower()), [])
        # Two masks may have the same words: the one that fits is meant.
        fitting = [place for place, said in enumerate(same) if said.is_shown(each)]
        wrong += not fitting
        if same:
            said = same.pop(fitting[0] if fitting else 0)
            read[said.kind] += bool(fitting)
            if each.mask is not None:
                both = int((each.mask & said.mask).sum()) if each.mask.shape == said.mask.shape else 0
                pixels_read += both
                pixels_wrong = (pixels_wrong or 0) + int(each.mask.sum()) + int(said.mask.sum()) - 2 * both
    counts = {"pixels": pixels, "pixels_read": pixels_read, "pixels_wrong": pixels_wrong}
    return {"tables": tables, "read": read, "wrong": wrong, **counts}


def _said(image: AnnotatedImage) -> Iterator[tuple[str, _Said]]:
    """Yield the texts of an image; each of several targets lists the same expression."""
    size = (image.height, image.width)
    places = {mask.mask_id: place for place, mask in enumerate(image.masks)}
    masks = decode([mask.rle_counts for mask in image.masks], size).reshape(-1, *size)
    of_masks = [each for mask in image.masks for each in mask.expressions if each.target_mask_ids[0] == mask.mask_id]
    for each in (*of_masks, *image.untargeted):
        targets = [places[mask] for mask in each.target_mask_ids]
        kind = KINDS[min(len(targets), 2) - 1]
        boxes = [image.masks[place].box_xyxy_px for place in targets]
        yield each.text.strip().lower(), _Said(kind, np.asarray(masks[targets].any(axis=0)), boxes)


def make_run(folder: Path) -> None:
    """Annotate scenes of the demo by the preset `tiny-composed` into `folder/run`; what is done is not done again."""
    images, command = folder / "images", [sys.executable, "-m", "pseudoris", "annotate"]
    if not images.exists():
        write_demo(folder, num_scenes=NUM_SCENES)
        for number, path in enumerate(sorted(images.glob("scene-*"))):
            # Square images would hide a height and a width that are exchanged.
            with Image.open(path) as scene:
                cut = scene.crop((0, 0, scene.width - 32 * (number % 2), scene.height - 32 * (1 - number % 2)))
            cut.save(path, quality=95)
    subprocess.run([*command, str(images), str(folder / "run"), *_SETTINGS], check=True)
