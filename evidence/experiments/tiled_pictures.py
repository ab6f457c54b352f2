"""How many drawn objects of long and of large pictures get a mask, with `pseudoris tile` and without.

`python -m evidence.experiments.tiled_pictures`: 16 shapes in pictures of equal area at six ratios, and 300 objects of
40 to 120 pixels in one of 50 megapixels, cut to the size that `tiny` sees. An object is found if a mask that no inner
edge cuts has an IoU of at least 0.5 with it, in the picture's frame.

`--only rivals`: what it costs that a candidate goes if an inner edge cuts its rival and no confidence decides. A text
is right if the colour and the category that it says fit its object, and no other that the tile shows, whole or cut.
"""

from __future__ import annotations

import argparse
import io
import itertools
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from pseudoris.cli.tile import tile
from pseudoris.images.prover import Prover
from pseudoris.primitives.run_lengths import decode_mask
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.shard import MaskRecord, Shard, ShardImage
from pseudoris.schemas.stage_settings import MAX_PIXELS
from pseudoris.store.runs.plan import assign_shards
from pseudoris.store.sources import open_source
from pseudoris.store.sources.proven_shard import read_shard
from pseudoris.synthworld.attributes import CATEGORIES, COLOURS, Attributes
from pseudoris.synthworld.grammar import NamedObject, parse_reference
from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scenes import SCENE_SIZE_PX, Scene, SceneObject
from pseudoris.workers.captions import CocaCaptioner
from pseudoris.workers.cut_masks import with_cuts, without_cut_targets
from pseudoris.workers.filtering import ClipScorer
from pseudoris.workers.stages import STAGE_PROPOSE, stages_named

_RATIOS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 0.25)
_CELL_PX: Final = 64
_NUM_SHAPES: Final = 16
_SHAPE_PX: Final = 28
_LARGE: Final = (6144, 8192)
_NUM_LARGE: Final = 300
_LEAST_IOU: Final = 0.5
# Of `rivals`: two of three cells hold an object.
_CROWDED: Final = (1536, 2048)
_NUM_CROWDED: Final = 72
_BACKGROUND: Final = (128, 126, 122)

Truth = list[tuple[int, int, np.ndarray]]  # x, y, and the pixels (h, w) bool of each object


def main() -> int:
    """Print a line for each picture."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=("ratios", "large", "rivals"), help="one part alone")
    parser.add_argument("--without", action="store_true", help="also without tiles, of ratios")
    chosen = parser.parse_args()
    if chosen.only in (None, "ratios"):
        for ratio in _RATIOS:
            pixels, truth = _of_ratio(ratio)
            counts = {"tiles": _num_found(pixels, truth, 192)}
            if chosen.without:
                counts["whole"] = _num_found(pixels, truth, None)
            _say(f"{pixels.shape[1]} x {pixels.shape[0]}", counts, len(truth))
    if chosen.only in (None, "large"):
        pixels, truth = _large(_LARGE, _NUM_LARGE)
        _say(f"{pixels.shape[1]} x {pixels.shape[0]}", {"tiles": _num_found(pixels, truth, 384)}, len(truth))
    if chosen.only in (None, "rivals"):
        _say_rivals()
    return 0


def _say(size: str, counts: dict[str, int], num: int) -> None:
    sys.stdout.write(f"{size}: " + ", ".join(f"{name} {count} of {num}" for name, count in counts.items()) + "\n")
    sys.stdout.flush()


def _of_ratio(ratio: float) -> tuple[np.ndarray, Truth]:
    """Return 16 shapes on a grid, in a picture that is `ratio` times as wide as high."""
    area = _NUM_SHAPES * _CELL_PX**2
    height, width = (max(_CELL_PX, round(math.sqrt(area * each))) for each in (1 / ratio, ratio))
    num_rows = max(1, height // _CELL_PX)
    num_columns = -(-_NUM_SHAPES // num_rows)
    places = [
        ((column + 0.5) * width / num_columns, (row + 0.5) * height / num_rows)
        for row, column in itertools.islice(itertools.product(range(num_rows), range(num_columns)), _NUM_SHAPES)
    ]
    return _drawn((height, width), places, [_SHAPE_PX] * _NUM_SHAPES)


def _large(size: tuple[int, int], num: int) -> tuple[np.ndarray, Truth]:
    """Return objects of 40 to 120 pixels, on the cells of a grid drawn at random."""
    draw = np.random.default_rng(0)
    height, width = size
    cells = draw.permutation((height // 160) * (width // 160))[:num]
    places = [(160 * (cell % (width // 160)) + 80.0, 160 * (cell // (width // 160)) + 80.0) for cell in cells.tolist()]
    return _drawn(size, places, draw.integers(40, 121, num).tolist())


def _drawn(
    size: tuple[int, int], places: Sequence[tuple[float, float]], sides: Sequence[int]
) -> tuple[np.ndarray, Truth]:
    pixels = np.empty((*size, 3), np.uint8)
    pixels[:] = _BACKGROUND
    truth: Truth = []
    for (x, y), side, (colour, category) in zip(places, sides, _kinds(), strict=False):
        shown, mask = _object(category, colour, side)
        left, top = round(x - mask.shape[1] / 2), round(y - mask.shape[0] / 2)
        pixels[top : top + mask.shape[0], left : left + mask.shape[1]][mask] = shown[mask]
        truth.append((left, top, mask))
    noise = np.random.default_rng(1).normal(0, 2, (*size, 1)).astype(np.int8)
    return np.clip(pixels.astype(np.int16) + noise, 0, 255).astype(np.uint8), truth


def _kinds() -> Iterator[tuple[str, str]]:
    colours = [each for each in COLOURS if each not in ("grey", "gray")]
    return ((colours[at % len(colours)], CATEGORIES[at % len(CATEGORIES)]) for at in itertools.count())


def _object(category: str, colour: str, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels and mask of one drawn object whose longer side has so many pixels."""
    centre = SCENE_SIZE_PX / 2
    item = SceneObject(Attributes(category, colour, "plain", "large"), (centre, centre), 48.0, 0.0, (0, 0, 0))
    drawn = render(Scene(0, 0, (item,)))
    rows, columns = (np.flatnonzero(drawn.masks[0].any(axis)) for axis in (1, 0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    scale = side / max(box[2] - box[0], box[3] - box[1])
    new = (max(1, round((box[2] - box[0]) * scale)), max(1, round((box[3] - box[1]) * scale)))
    shown = np.asarray(Image.fromarray(drawn.image).crop(box).resize(new, Image.Resampling.BOX))
    mask = np.asarray(Image.fromarray(drawn.masks[0].astype(np.uint8) * 255).crop(box).resize(new)) >= 128
    return shown, mask


def _num_found(pixels: np.ndarray, truth: Truth, size: int | None) -> int:
    """Return how many objects get a mask in tiles of at most `size` pixels a side, or in the whole picture (None)."""
    return len({at for image in _masked(pixels, size) for mask in image.masks for at in _matched(image, mask, truth)})


def _masked(pixels: np.ndarray, size: int | None, then: Sequence[Callable[[Shard], Shard]] = ()) -> list[ShardImage]:
    """Return the tiles of a picture, or the picture itself, with masks and what the stages `then` make of them."""
    found: list[ShardImage] = []
    with tempfile.TemporaryDirectory() as folder:
        source, dest = Path(folder) / "in", Path(folder) / "out"
        source.mkdir()
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, "PNG", compress_level=1)
        (source / "picture.png").write_bytes(encoded.getvalue())
        if size is not None:
            tile(str(source), str(dest), size=size, overlap=128)
        config, place = load_config("tiny"), str(source if size is None else dest)
        config = config.model_copy(update={"images": config.images.model_copy(update={"max_pixels": MAX_PIXELS})})
        entries = list(assign_shards(open_source(place, config.source).list(), config.shards))
        propose = stages_named((STAGE_PROPOSE,))[0].build(config)
        with Prover(config.images) as prover:
            for _, group in itertools.groupby(entries, key=lambda entry: entry.shard):
                shard = with_cuts(propose(read_shard(place, config, list(group), prover=prover)))
                for stage in then:
                    shard = stage(shard)
                found += (replace(image, data=b"") for image in shard.images)
    return found


def _matched(image: ShardImage, mask: MaskRecord, truth: Truth) -> Iterator[int]:
    """Yield the numbers of the objects that a mask has, unless an inner edge cuts it."""
    if mask.is_cut:
        return
    left, top, *_ = image.tile_xyxy_px or (0, 0)
    pixels, (x0, y0, x1, y1) = decode_mask(mask.rle_counts, *mask.rle_size), mask.box_xyxy_px
    for number, (x, y, due) in enumerate(truth):
        height, width = due.shape
        box = (x - left, y - top, x - left + width, y - top + height)
        if box[0] >= x1 or box[2] <= x0 or box[1] >= y1 or box[3] <= y0:
            continue
        inside = np.zeros_like(pixels)
        rows, columns = slice(max(box[1], 0), max(box[3], 0)), slice(max(box[0], 0), max(box[2], 0))
        part = inside[rows, columns]
        part[:] = due[max(-box[1], 0) :, max(-box[0], 0) :][: part.shape[0], : part.shape[1]]
        both = int((inside & pixels).sum())
        if both >= _LEAST_IOU * (int(due.sum()) + mask.area_px - both):
            yield number


def _say_rivals() -> None:
    """Print what candidates of whole masks go because an edge cuts their rival, and how many are right."""
    pixels, truth = _large(_CROWDED, _NUM_CROWDED)
    config, num = load_config("tiny"), Counter[tuple[str, str]]()
    objects = dict[int, set[str]]()
    stages = CocaCaptioner(config.captions, config.compute), ClipScorer(config.filtering, config.compute)
    for image in _masked(pixels, 384, stages):
        masks = {mask.mask_id: mask for mask in image.masks}
        stays = {id(each) for each in without_cut_targets(Shard(0, 0, (image,))).images[0].expressions}
        of_masks = dict[str, set[str]]()
        for said in image.expressions:
            (target,) = said.target_mask_ids
            if masks[target].is_cut:
                continue
            what = "stay" if id(said) in stays else "go"
            num["candidates", what] += 1
            if said.kept:
                own = [*_matched(image, masks[target], truth)]
                num["kept", what] += 1
                num["right", what] += _is_right(said.text, own, image, truth)
                of_masks.setdefault(target, set()).add(what)
                for each in own:
                    objects.setdefault(each, set()).add(what)
        num.update(("masks with a kept text", "stay" if "stay" in each else "go") for each in of_masks.values())
        num.update(("masks", "cut" if mask.is_cut else "whole") for mask in image.masks)
    num.update(("objects with a kept text in a tile", "stay" if "stay" in each else "go") for each in objects.values())
    for (kind, what), count in sorted(num.items()):
        sys.stdout.write(f"{kind}, {what}: {count:,}\n")


def _is_right(text: str, own: Sequence[int], image: ShardImage, truth: Truth) -> bool:
    reference, fitting = parse_reference(text), set[int]()
    if not isinstance(reference, NamedObject):
        return False
    left, top, right, bottom = image.tile_xyxy_px
    for number, ((x, y, mask), (colour, category)) in enumerate(zip(truth, _kinds(), strict=False)):
        is_shown = x < right and y < bottom and x + mask.shape[1] > left and y + mask.shape[0] > top
        if is_shown and reference.noun.category == category and reference.noun.colour in (None, colour):
            fitting.add(number)
    return len(own) == 1 and fitting == {*own}


if __name__ == "__main__":
    sys.exit(main())
