"""Draw composed expressions over scenes: `python -m experiments.composing.composed_picture docs/guides/composing.png`.

Candidates that `--cache` lacks are made; `--cache quality-out` takes those of `python -m experiments.quality`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

from experiments.composing.composed_figures import COMPOSING
from experiments.oracle import candidates_of
from experiments.quality.annotated_scenes import DISTINCTIVE, SceneSet, annotated_scenes
from experiments.quality.parts import Options
from pseudoris.schemas.shard import SOURCE_COMPOSER, ExpressionRecord, ShardImage
from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scene_truth import SceneImageTruth
from pseudoris.synthworld.scenes import Scene, Split
from pseudoris.training.evaluation.truth import match_image
from pseudoris.workers.masks import rle

_ZOOM: Final = 2
_LINE_PX: Final = 17
_MARGIN_PX: Final = 8
_MAX_LINES: Final = 22
# Numbers before a sentence: a group has up to six.
_TEXT_LEFT_PX: Final = 76
_INK, _PAPER, _WRONG, _OUTLINE = "#222222", "#ffffff", "#b00020", "#ff2bd6"


def main(
    path: Annotated[Path, typer.Argument(help="The picture, PNG.")],
    scenes: Annotated[list[int] | None, typer.Option("--scene", help="Positions of test scenes.")] = None,
    num_scenes: Annotated[int, typer.Option(help="How many scenes the cache holds.")] = 400,
    cache: Annotated[Path, typer.Option(help="Where candidates are kept.")] = Path("bench-out/composing"),
) -> None:
    """Write a picture of a few scenes, side by side."""
    scene_set = SceneSet(Split.TEST, num_scenes)
    images = annotated_scenes(Options(cache), scene_set, DISTINCTIVE)
    panels = [_panel(scene_set.scene(position), COMPOSING(images[position])) for position in scenes or (4, 5, 6, 7)]
    whole = Image.new("RGB", (sum(panel.width for panel in panels), max(panel.height for panel in panels)), _PAPER)
    left = 0
    for panel in panels:
        whole.paste(panel, (left, 0))
        left += panel.width
    whole.quantize(128).save(path, optimize=True)


def _panel(scene: Scene, image: ShardImage) -> Image.Image:
    """A scene with its masks, outlined and numbered, and below it what was composed; wrong ones are marked."""
    shown = _numbered(scene, image)
    numbers = {mask.mask_id: number for number, mask in enumerate(image.masks, start=1)}
    found = [each for each in image.expressions if each.source == SOURCE_COMPOSER][:_MAX_LINES]
    panel = Image.new("RGB", (shown.width + 2 * _MARGIN_PX, shown.height + (len(found) + 1) * _LINE_PX), _PAPER)
    panel.paste(shown, (_MARGIN_PX, _MARGIN_PX))
    draw, font = ImageDraw.Draw(panel), ImageFont.load_default(12)
    truth = SceneImageTruth(scene)
    object_of = match_image(truth, candidates_of(image, lambda each: each.kept)).object_of_mask
    for number, each in enumerate(found):
        top = shown.height + _MARGIN_PX + 4 + number * _LINE_PX
        meant = ", ".join(map(str, sorted(numbers[mask] for mask in each.target_mask_ids))) or "none"
        draw.text((_MARGIN_PX, top), meant, fill=_INK, font=font)
        is_right = truth.referents(each.text) == frozenset(object_of.get(mask, -1) for mask in each.target_mask_ids)
        left, colour = _MARGIN_PX + _TEXT_LEFT_PX, _INK if is_right else _WRONG
        draw.text((left, top), _label(each, is_right=is_right), fill=colour, font=font)
    return panel


def _numbered(scene: Scene, image: ShardImage) -> Image.Image:
    pixels = render(scene).image
    masks = rle.decode([mask.rle_counts for mask in image.masks], pixels.shape[:2])
    pixels = np.repeat(np.repeat(pixels, _ZOOM, 0), _ZOOM, 1)
    for mask in masks:
        pixels[_outline(mask)] = ImageColor.getrgb(_OUTLINE)
    shown = Image.fromarray(pixels)
    draw, font = ImageDraw.Draw(shown), ImageFont.load_default(15)
    for number, mask in enumerate(masks, start=1):
        x, y = _label_place(mask)
        at = (_ZOOM * x, _ZOOM * y)
        draw.text(at, str(number), fill=_PAPER, stroke_fill=_INK, stroke_width=2, anchor="mm", font=font)
    return shown


def _label(expression: ExpressionRecord, *, is_right: bool) -> str:
    sure = "" if expression.confidence is None else f"{expression.confidence:.2f}  "
    return f"{sure}{expression.text}{'' if is_right else '  (wrong)'}"


def _label_place(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """The pixel (x, y) of a mask, (H, W) bool, nearest to its centre: of a ring's hole a number would say nothing."""
    rows, columns = np.nonzero(mask)
    nearest = int(np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2))
    return int(columns[nearest]), int(rows[nearest])


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The rim of a mask, (H, W) bool, enlarged: two enlarged pixels inside it."""
    large = np.repeat(np.repeat(mask, _ZOOM, 0), _ZOOM, 1)
    padded = np.pad(large, 2)
    size = large.shape
    inner = large.copy()
    for dy, dx in ((0, 2), (4, 2), (2, 0), (2, 4)):
        inner &= padded[dy : dy + size[0], dx : dx + size[1]]
    return np.asarray(large & ~inner)


if __name__ == "__main__":
    typer.run(main)
