"""Draw composed expressions over their scenes: `python -m benchmarks.composing.picture docs/composing.png`.

It takes the candidates that `python -m benchmarks.composing` keeps, and makes them where they are missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from benchmarks.composing.measuring import CANDIDATES, KINDS
from benchmarks.oracle.judging import candidates_of
from benchmarks.quality.annotate import SceneSet, annotated_scenes
from benchmarks.quality.options import Options
from schemas.composing import ComposingConfig
from schemas.shard import SOURCE_COMPOSER, ExpressionRecord, ShardImage
from synthworld.render import render
from synthworld.scenes import Scene, Split
from synthworld.truth import SceneImageTruth
from training.evaluation.counting import match_image
from workers.composing.composer import Composer
from workers.masks import rle

_ZOOM: Final = 2
_LINE_PX: Final = 17
_MAX_LINES: Final = 12
_COLOURS: Final = ("#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2")
_INK, _PAPER, _WRONG = "#222222", "#ffffff", "#b00020"


def main(
    path: Annotated[Path, typer.Argument(help="The picture, PNG.")],
    scenes: Annotated[list[int] | None, typer.Option("--scene", help="Positions of test scenes.")] = None,
    num_scenes: Annotated[int, typer.Option(help="How many scenes the cache holds.")] = 400,
    cache: Annotated[Path, typer.Option(help="Where candidates are kept.")] = Path("bench-out/composing"),
) -> None:
    """Write a picture of a few scenes, side by side."""
    scene_set = SceneSet(Split.TEST, num_scenes)
    images = annotated_scenes(Options(cache), scene_set, CANDIDATES)
    composer = Composer(ComposingConfig(kinds=KINDS))
    panels = [_panel(scene_set.scene(position), composer(images[position])) for position in scenes or (4, 5, 6, 7)]
    whole = Image.new("RGB", (sum(panel.width for panel in panels), max(panel.height for panel in panels)), _PAPER)
    left = 0
    for panel in panels:
        whole.paste(panel, (left, 0))
        left += panel.width
    whole.quantize(128).save(path, optimize=True)


def _panel(scene: Scene, image: ShardImage) -> Image.Image:
    """A scene with the outlines of its masks, and below it what was composed; wrong ones are marked."""
    pixels = np.repeat(np.repeat(render(scene).image, _ZOOM, 0), _ZOOM, 1)
    masks = rle.decode([mask.rle_counts for mask in image.masks], (scene_size := render(scene).image.shape[:2]))
    colours = {mask.mask_id: _COLOURS[n % len(_COLOURS)] for n, mask in enumerate(image.masks)}
    for mask, pixels_of_mask in zip(image.masks, masks, strict=True):
        pixels[_outline(pixels_of_mask)] = tuple(bytes.fromhex(colours[mask.mask_id][1:]))
    width, height = _ZOOM * scene_size[1], _ZOOM * scene_size[0]
    margin = 8
    panel = Image.new("RGB", (width + 2 * margin, height + (_MAX_LINES + 1) * _LINE_PX), _PAPER)
    panel.paste(Image.fromarray(pixels), (margin, margin))
    draw, font = ImageDraw.Draw(panel), ImageFont.load_default(12)
    truth = SceneImageTruth(scene)
    object_of = match_image(truth, candidates_of(image, lambda each: each.kept)).object_of_mask
    found = [each for each in image.expressions if each.source == SOURCE_COMPOSER]
    for number, each in enumerate(found[:_MAX_LINES]):
        top = height + margin + 4 + number * _LINE_PX
        _draw_dots(draw, margin, top, [colours[mask] for mask in each.target_mask_ids])
        is_right = truth.referents(each.text) == frozenset(object_of.get(mask, -1) for mask in each.target_mask_ids)
        draw.text((margin + 56, top), _label(each, is_right=is_right), fill=_INK if is_right else _WRONG, font=font)
    return panel


def _label(expression: ExpressionRecord, *, is_right: bool) -> str:
    nobody = " (nothing)" if not expression.target_mask_ids else ""
    return f"{expression.text}{nobody}{'' if is_right else '  (wrong)'}"


def _draw_dots(draw: ImageDraw.ImageDraw, left: int, top: int, colours: Sequence[str]) -> None:
    for number, colour in enumerate(colours[:4]):
        at = left + 13 * number
        draw.ellipse((at, top + 3, at + 9, top + 12), fill=colour)


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
