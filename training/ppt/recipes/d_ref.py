"""Makes PPT's composed images (D_ref) out of object images (D_sem), texts with a referent. For `cli`, experiments.

Several object-centric images become one: a mosaic (objects have places) or a fusion (objects have relations). An image
is drawn by its number and the seed alone: another order of draws changes the bytes of a run.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pseudoris.files.location import RunLocation
from pseudoris.interchange.dataset import RisDataset, SampleSpec, Snapshot
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.run_records import PlanEntry
from pseudoris.schemas.shard import ExpressionRecord, Shard, ShardImage
from pseudoris.store.runs.parents import Parent
from pseudoris.store.runs.planned_run import RunRequest, plan_run
from pseudoris.store.sessions.thread_executor import OnProgress, WrittenRun, write_run
from pseudoris.store.sources import SourceItem
from pseudoris.training.ppt.recipes.recipe_config import ComposeConfig, RecipeConfig
from pseudoris.training.ppt.recipes.recipe_runs import ORIGIN, STAGE_RECIPE, Recipe, pseudo_mask_rows, recipe_masks
from pseudoris.training.ppt.recipes.recipe_texts import name_in, position_texts, relation_texts

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

# A tile fills at least this share of its mosaic cell. In the rest of the cell its position is random.
_MIN_FILL: Final = 0.85
# A window leaves this space around its object, as a share of the object's box.
_MARGIN: Final = 0.1
_PLACES_TRIED: Final = 16
# Centres must be this far apart, as a share of the image's side, for a relation to be visible.
_MIN_GAP: Final = 0.15


@dataclass(frozen=True, slots=True)
class Piece:
    """An object-centric image: pixels (H, W, 3) uint8, its object's mask (H, W) bool, its class name."""

    pixels: Pixels
    mask: Mask
    name: str


@dataclass(frozen=True, slots=True)
class ComposedImage:
    """A composed square image: pixels (S, S, 3) uint8, and texts for each object as the referent.

    Masks (S, S) bool show what is visible of each object, at least one pixel; `kind` is `position` of a mosaic,
    `relation` of a fusion.
    """

    pixels: Pixels
    masks: tuple[Mask, ...]
    texts: tuple[tuple[str, ...], ...]
    kind: str


def mosaic(
    pieces: Sequence[Piece], layout: tuple[int, int], side: int, rng: np.random.Generator
) -> ComposedImage | None:
    """Return the pieces, row by row, scaled and pasted into the cells of a grid; None where one lost its object."""
    canvas, (rows, columns) = _canvas(pieces, side), layout
    masks: list[Mask] = []
    texts: list[tuple[str, ...]] = []
    for number, piece in enumerate(pieces):
        row, column = divmod(number, columns)
        cell = side // columns, side // rows
        window = _window(piece, cell, rng)
        fit = min(cell[0] / window.mask.shape[1], cell[1] / window.mask.shape[0])
        scaled = _scaled(window, max(window.mask.shape) * fit * rng.uniform(_MIN_FILL, 1.0))
        height, width = scaled.mask.shape
        x = column * cell[0] + int(rng.integers(cell[0] - width + 1))
        y = row * cell[1] + int(rng.integers(cell[1] - height + 1))
        canvas[y : y + height, x : x + width] = scaled.pixels
        masks.append(_placed(scaled.mask, (x, y), side))
        texts.append(position_texts(piece.name, layout, (row, column)))
    if not all(mask.any() for mask in masks):
        return None
    return ComposedImage(canvas, tuple(masks), tuple(texts), "position")


def fusion(base: Piece, embedded: Piece, config: ComposeConfig, rng: np.random.Generator) -> ComposedImage | None:
    """Return one image embedded in another, each described by its relation to the other; None where none is clear."""
    side = config.side_px
    canvas, under = _canvas([base], side), _scaled(base, side)
    corner = ((side - under.mask.shape[1]) // 2, (side - under.mask.shape[0]) // 2)
    canvas[corner[1] : corner[1] + under.mask.shape[0], corner[0] : corner[0] + under.mask.shape[1]] = under.pixels
    below = _placed(under.mask, corner, side)
    piece = embedded
    if config.embedded == "object":
        ys, xs = np.nonzero(embedded.mask)
        box = slice(ys.min(), ys.max() + 1), slice(xs.min(), xs.max() + 1)
        piece = Piece(embedded.pixels[box], embedded.mask[box], embedded.name)
    over = _scaled(piece, side * rng.uniform(*config.embedded_side))
    cover = over.mask if config.embedded == "object" else np.ones_like(over.mask)
    height, width = over.mask.shape
    if not below.any() or not over.mask.any():
        return None
    for _ in range(_PLACES_TRIED):
        x, y = int(rng.integers(side - width + 1)), int(rng.integers(side - height + 1))
        visible = below & ~_placed(cover, (x, y), side)
        above = _placed(over.mask, (x, y), side)
        relation = relative_side(above, visible) if visible.any() else None
        if relation is None or visible.sum() < config.min_visible * below.sum():
            continue
        window = canvas[y : y + height, x : x + width]
        window[cover] = over.pixels[cover]
        texts = (
            relation_texts(base.name, _OPPOSITE[relation], embedded.name),
            relation_texts(embedded.name, relation, base.name),
        )
        return ComposedImage(canvas, (visible, above), texts, "relation")
    return None


_OPPOSITE: Final = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}


def relative_side(target: Mask, anchor: Mask) -> str | None:
    """Return on which side of the anchor the target is, by the centres of their boxes; None where it is not clear.

    It is clear if they are apart by `_MIN_GAP` or more along one axis, and by at most half of that along the other.
    """
    # Each of these is twice the centre (x, y) of an object's box.
    centres = [np.array([xs.min() + xs.max(), ys.min() + ys.max()]) for ys, xs in map(np.nonzero, (target, anchor))]
    x, y = (centres[0] - centres[1]) / 2 / np.array([target.shape[1], target.shape[0]])
    along, across = (x, y) if abs(x) > abs(y) else (y, x)
    if abs(along) < _MIN_GAP or abs(across) > abs(along) / 2:
        return None
    if along == x:
        return "left" if x < 0 else "right"
    return "top" if y < 0 else "bottom"


def _canvas(pieces: Sequence[Piece], side: int) -> Pixels:
    """A square in the mean colour of the pieces, where none of them lies."""
    mean = np.mean([piece.pixels.mean(axis=(0, 1)) for piece in pieces], axis=0)
    return np.broadcast_to(np.rint(mean).astype(np.uint8), (side, side, 3)).copy()


def _window(piece: Piece, cell: tuple[int, int], rng: np.random.Generator) -> Piece:
    """The largest part of the piece that has the cell's shape (width, height) and holds the whole object."""
    if not piece.mask.any():
        return piece
    height, width = piece.mask.shape
    ys, xs = np.nonzero(piece.mask)
    share = min(width / cell[0], height / cell[1])
    spans = []
    for low, high, full, wanted in (
        (int(xs.min()), int(xs.max()) + 1, width, cell[0] * share),
        (int(ys.min()), int(ys.max()) + 1, height, cell[1] * share),
    ):
        margin = _MARGIN * (high - low) / 2
        low, high = max(0, int(low - margin)), min(full, int(high + margin + 1))
        # The length is at least that of the object, so a window may have another shape than its cell.
        length = min(full, max(high - low, int(wanted)))
        start = int(rng.integers(max(0, high - length), min(low, full - length) + 1))
        spans.append(slice(start, start + length))
    return Piece(piece.pixels[spans[1], spans[0]], piece.mask[spans[1], spans[0]], piece.name)


def _scaled(piece: Piece, long_side: float) -> Piece:
    """The piece with its longer side in whole pixels, at least one of either."""
    height, width = piece.mask.shape
    scale = long_side / max(height, width)
    size = max(1, int(width * scale)), max(1, int(height * scale))
    pixels = Image.fromarray(np.ascontiguousarray(piece.pixels)).resize(size, Image.Resampling.BILINEAR)
    shares = Image.fromarray(piece.mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
    return Piece(np.asarray(pixels), np.asarray(shares) >= 128, piece.name)


def _placed(mask: Mask, corner_xy: tuple[int, int], side: int) -> Mask:
    full = np.zeros((side, side), np.bool_)
    full[corner_xy[1] : corner_xy[1] + mask.shape[0], corner_xy[0] : corner_xy[0] + mask.shape[1]] = mask
    return full


RECIPE: Final = "compose"
_JPEG_QUALITY: Final = 95
# At most this many compositions are tried for one image, each with other pieces.
_TRIES: Final = 50


def compose_objects(
    objects: str,
    location: RunLocation,
    config: RecipeConfig,
    *,
    on_progress: OnProgress,
    on_wait: Callable[[str], None],
) -> WrittenRun:
    """Write D_ref: mosaics and fusions of the images of D_sem, embedded in the tables.

    An image has as many pseudo-masks as objects; each of its texts has them all, the referent with c = 1, the contexts
    with c = 0. `objects` is a complete run of `make_objects`, or any whose kept texts are "the … in the middle"; the
    rest is as of `write_run` and `Recipe.held`.
    """
    shards = config.run.shards.model_copy(update={"embed_images": True})
    config = config.model_copy(update={"run": config.run.model_copy(update={"shards": shards})})
    parent = Parent.open(RunLocation.open(objects), location)
    config = config.reading_as(parent.header)
    pieces = _Pieces(parent.location, config.compose)
    recipe = Recipe(RECIPE, config, config.compose.model_dump(mode="json"), has_models=False)
    suffix = ".jpg" if config.compose.image_format == "jpeg" else ".png"
    count = max(1, round(len(pieces.names) * config.compose.images_per_source))
    with recipe.held(location, on_wait) as (identity, lock):
        request = RunRequest(ORIGIN, parent.location.root, identity, config.run, parent, lock=lock)
        items = (SourceItem(f"composed-{number:08d}{suffix}") for number in range(count))
        planned = plan_run(location, request, lambda: items)

        def make(entries: Sequence[PlanEntry]) -> Shard:
            started = time.perf_counter()
            images = tuple(_image(entry, pieces, config.compose) for entry in entries)
            return Shard(entries[0].shard, 0, images).with_seconds(STAGE_RECIPE, time.perf_counter() - started)

        return write_run(location, planned, make, lock=lock, on_progress=on_progress)


class _Pieces:
    """The objects of D_sem, of as many classes as compositions need, read on demand."""

    def __init__(self, location: RunLocation, config: ComposeConfig) -> None:
        spec = SampleSpec(parts=("image", "mask", "text"), expressions_per_mask=1)
        self._dataset = RisDataset(location, spec, snapshot=Snapshot.shared(location))
        texts = RisDataset(location, SampleSpec(parts=("text",)), snapshot=self._dataset.snapshot)
        self.names: list[str] = []
        for at in range(len(texts)):
            (text,) = texts[at]["expressions"]
            name = name_in(text)
            if name is None:
                raise ConfigError(
                    f'{location.root} has the expression {text!r}, which is not of the form "the … in the middle". '
                    "Give a run of `pseudoris ppt objects`."
                )
            self.names.append(name)
        if config.mosaic_share < 1 and len(set(self.names)) == 1:
            raise ConfigError(
                f"{location.root} has only one class, {self.names[0]!r}. A fusion needs objects of two classes. Give "
                "objects of more classes, or set compose.mosaic_share=1 to make mosaics only."
            )

    def drawn(self, at: int, rng: np.random.Generator) -> Piece:
        sample = self._dataset[at]
        pixels, mask = sample["image"].permute(1, 2, 0).numpy(), sample["mask"].numpy()
        if rng.random() < 0.5:
            pixels, mask = pixels[:, ::-1], mask[:, ::-1]
        return Piece(pixels, mask, self.names[at])


def _image(entry: PlanEntry, pieces: _Pieces, config: ComposeConfig) -> ShardImage:
    """One composed image, drawn by its number alone."""
    number = int(entry.key.removeprefix("composed-").partition(".")[0])
    rng = np.random.Generator(np.random.Philox(key=np.array([config.seed, number], dtype=np.uint64)))
    composed = _drawn(pieces, config, rng)
    buffer = io.BytesIO()
    options: dict[str, Any] = {"quality": _JPEG_QUALITY} if config.image_format == "jpeg" else {}
    Image.fromarray(composed.pixels).save(buffer, format=config.image_format.upper(), **options)
    data = buffer.getvalue()
    masks = recipe_masks(entry.image_id, composed.masks, RECIPE)
    mask_ids, rows = [mask.mask_id for mask in masks], list[ExpressionRecord]()
    count = min(config.texts_per_image, len(masks))
    for target in sorted(rng.choice(len(masks), size=count, replace=False).tolist()):
        said = composed.texts[target]
        text = said[int(rng.integers(len(said)))]
        rows += pseudo_mask_rows(text, mask_ids, [at == target for at in range(len(mask_ids))], kind=composed.kind)
    return ShardImage(
        position=entry.position,
        image_id=entry.image_id,
        key=entry.key,
        data=data,
        sha256=sha256_hex(data),
        height=config.side_px,
        width=config.side_px,
        masks=masks,
        expressions=tuple(rows),
    )


def _drawn(pieces: _Pieces, config: ComposeConfig, rng: np.random.Generator) -> ComposedImage:
    """A mosaic or a fusion of drawn pieces, each mirrored or not."""
    is_mosaic = rng.random() < config.mosaic_share
    for _ in range(_TRIES):
        if is_mosaic:
            layout = config.layouts[int(rng.integers(len(config.layouts)))]
            chosen = _chosen(pieces.names, layout[0] * layout[1], config.same_class_share, rng)
            found = mosaic([pieces.drawn(at, rng) for at in chosen], layout, config.side_px, rng)
        else:
            # The classes differ, because "the star left of the star" would name both. There are two classes or more.
            base, embedded = _chosen(pieces.names, 2, 0.0, rng)
            found = fusion(pieces.drawn(base, rng), pieces.drawn(embedded, rng), config, rng)
        if found is not None:
            return found
    raise ConfigError(
        f"In {_TRIES} tries no {'mosaic' if is_mosaic else 'fusion'} shows its objects, because the run's masks are "
        "too large or too small. Look at them, or set compose.mosaic_share, compose.min_visible or "
        "compose.embedded_side."
    )


def _chosen(names: Sequence[str], count: int, same_class_share: float, rng: np.random.Generator) -> list[int]:
    """Positions of pieces; each but the first is of a class that is there with probability `same_class_share`."""
    # With a share of 0 all classes differ, if there are enough classes. A mosaic may have too few.
    chosen = [int(rng.integers(len(names)))]
    while len(chosen) < count:
        there = {names[at] for at in chosen}
        is_same = rng.random() < same_class_share
        wanted = [at for at, name in enumerate(names) if (name in there) == is_same and at not in chosen]
        wanted = wanted or list(range(len(names)))
        chosen.append(wanted[int(rng.integers(len(wanted)))])
    return chosen
