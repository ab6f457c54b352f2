"""Makes D_ref from D_sem: a new run of composed images with referent and contexts (section 3.2)."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from PIL import Image

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.run_records import Identity, PlanEntry
from pseudoris.schemas.shard import ExpressionRecord, Shard, ShardImage
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.parent_run import Parent
from pseudoris.store.runs.planned_run import PlannedRun, RunRequest, plan_or_continue
from pseudoris.store.sources import SourceItem
from pseudoris.training.dataset import RisDataset, SampleSpec, Snapshot
from pseudoris.training.ppt.recipes.image_composition import ComposedImage, Piece, fusion, mosaic
from pseudoris.training.ppt.recipes.recipe_config import ComposeConfig, RecipeConfig
from pseudoris.training.ppt.recipes.recipe_runs import (
    ORIGIN,
    STAGE_RECIPE,
    PseudoMask,
    Recipe,
    mask_records,
    pseudo_mask_rows,
    write_recipe,
)
from pseudoris.training.ppt.recipes.recipe_texts import name_in
from pseudoris.training.thread_executor import MakeShard, OnProgress, WrittenRun

RECIPE: Final = "compose"
_SUFFIXES: Final = {"png": ".png", "jpeg": ".jpg"}
_JPEG_QUALITY: Final = 95
# Compositions tried for one image; each draws other pieces.
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
    with c = 0.

    Args:
        objects: A complete run of `make_objects`, or any whose kept texts are "the … in the middle".
        location: A new run, or one that the same call began.
        config: Its `compose`.
        on_progress: Called after each commit.
        on_wait: Called with the holder of the run, before a wait.

    Raises:
        ConfigError: The run has no such text, shows one class alone where fusions are wanted, or is not complete, or
            the user must fix something else.
        TransientError: Storage failed; the same call continues.
    """
    shards = config.run.shards.model_copy(update={"embed_images": True})
    config = replace(config, run=config.run.model_copy(update={"shards": shards}))
    parent = Parent.open(RunLocation.open(objects), location)
    recipe = Recipe(RECIPE, config, config.compose.model_dump(mode="json"), has_models=False)

    def plan(identity: Identity) -> PlannedRun:
        request = RunRequest(
            ORIGIN, parent.location.root, identity, config.run, parent, config.run.placement.allow_mixed
        )
        return plan_or_continue(
            location, request, lambda: _items(len(_pieces(parent.location, config.compose)), config.compose)
        )

    def maker(_: PlannedRun) -> MakeShard:
        pieces = _pieces(parent.location, config.compose)
        return lambda entries: _shard(entries, pieces, config.compose)

    return write_recipe(recipe, location, plan, maker, on_progress=on_progress, on_wait=on_wait)


class _Pieces:
    """The objects of D_sem, read on demand."""

    def __init__(self, location: RunLocation) -> None:
        """Read the masks and texts of a run.

        Raises:
            ConfigError: One of its kept texts is none of D_sem's.
        """
        spec = SampleSpec(parts=("image", "mask", "text"), expressions_per_mask=1)
        self._dataset = RisDataset(location, spec, snapshot=Snapshot.shared(location))
        texts = RisDataset(location, SampleSpec(parts=("text",)), snapshot=self._dataset.snapshot)
        self.names = [self._name(texts[at], location) for at in range(len(texts))]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, at: int) -> Piece:
        sample = self._dataset[at]
        pixels = sample["image"].permute(1, 2, 0).numpy()
        return Piece(pixels, sample["mask"].numpy(), self.names[at])

    def _name(self, sample: Any, location: RunLocation) -> str:
        (text,) = sample["expressions"]
        name = name_in(text)
        if name is None:
            raise ConfigError(
                f'{location.root} has the expression {text!r}, which is not of the form "the … in the middle". '
                "Give a run of `pseudoris ppt objects`."
            )
        return name


def _pieces(location: RunLocation, config: ComposeConfig) -> _Pieces:
    """The objects of a run, of as many classes as compositions need."""
    pieces = _Pieces(location)
    if config.mosaic_share < 1 and len(set(pieces.names)) == 1:
        raise ConfigError(
            f"{location.root} has only one class, {pieces.names[0]!r}. A fusion needs objects of two classes. Give "
            "objects of more classes, or set compose.mosaic_share=1 to make mosaics only."
        )
    return pieces


def _items(num_pieces: int, config: ComposeConfig) -> Iterator[SourceItem]:
    count = max(1, round(num_pieces * config.images_per_source))
    yield from (SourceItem(f"composed-{number:08d}{_SUFFIXES[config.image_format]}") for number in range(count))


def _shard(entries: Sequence[PlanEntry], pieces: _Pieces, config: ComposeConfig) -> Shard:
    started = time.perf_counter()
    images = tuple(_image(entry, pieces, config) for entry in entries)
    return Shard(entries[0].shard, 0, images).with_seconds(STAGE_RECIPE, time.perf_counter() - started)


def _image(entry: PlanEntry, pieces: _Pieces, config: ComposeConfig) -> ShardImage:
    """One composed image, drawn by its number alone."""
    number = int(entry.key.removeprefix("composed-").partition(".")[0])
    rng = np.random.Generator(np.random.Philox(key=np.array([config.seed, number], dtype=np.uint64)))
    composed = _drawn(pieces, config, rng)
    data = _encoded(composed, config)
    masks = mask_records(entry.image_id, [PseudoMask(mask) for mask in composed.masks], RECIPE)
    return ShardImage(
        position=entry.position,
        image_id=entry.image_id,
        key=entry.key,
        data=data,
        sha256=sha256_hex(data),
        height=config.side_px,
        width=config.side_px,
        masks=masks,
        expressions=tuple(_rows(composed, [mask.mask_id for mask in masks], config, rng)),
    )


def _drawn(pieces: _Pieces, config: ComposeConfig, rng: np.random.Generator) -> ComposedImage:
    """A mosaic or a fusion of drawn pieces, each mirrored or not."""
    is_mosaic = rng.random() < config.mosaic_share
    for _ in range(_TRIES):
        if is_mosaic:
            layout = config.layouts[int(rng.integers(len(config.layouts)))]
            chosen = _chosen(pieces.names, layout[0] * layout[1], config.same_class_share, rng)
            found = mosaic([_mirrored(pieces[at], rng) for at in chosen], layout, config.side_px, rng)
        else:
            # Of two classes, which `_pieces` has seen to: "the star left of the star" gives both of them the same name.
            base, embedded = _chosen(pieces.names, 2, 0.0, rng)
            found = fusion(_mirrored(pieces[base], rng), _mirrored(pieces[embedded], rng), config, rng)
        if found is not None:
            return found
    raise ConfigError(
        f"In {_TRIES} tries no {'mosaic' if is_mosaic else 'fusion'} shows its objects, because the run's masks are "
        "too large or too small. Look at them, or set compose.mosaic_share, compose.min_visible or "
        "compose.embedded_side."
    )


def _chosen(names: Sequence[str], count: int, same_class_share: float, rng: np.random.Generator) -> list[int]:
    """Positions of pieces; each but the first is, with a probability of `same_class_share`, of a class that is there.

    With a share of 0 their classes differ, where there are as many: two of a fusion always, tiles of a mosaic perhaps.
    """
    chosen = [int(rng.integers(len(names)))]
    while len(chosen) < count:
        there = {names[at] for at in chosen}
        is_same = rng.random() < same_class_share
        wanted = [at for at, name in enumerate(names) if (name in there) == is_same and at not in chosen]
        wanted = wanted or list(range(len(names)))
        chosen.append(wanted[int(rng.integers(len(wanted)))])
    return chosen


def _mirrored(piece: Piece, rng: np.random.Generator) -> Piece:
    return piece.mirrored() if rng.random() < 0.5 else piece


def _rows(
    composed: ComposedImage, mask_ids: Sequence[str], config: ComposeConfig, rng: np.random.Generator
) -> Iterator[ExpressionRecord]:
    """The pseudo-masks of each text, in the order of the texts' targets."""
    count = min(config.texts_per_image, len(mask_ids))
    for target in sorted(rng.choice(len(mask_ids), size=count, replace=False).tolist()):
        said = composed.texts[target]
        text = said[int(rng.integers(len(said)))]
        yield from pseudo_mask_rows(text, mask_ids, [at == target for at in range(len(mask_ids))], kind=composed.kind)


def _encoded(composed: ComposedImage, config: ComposeConfig) -> bytes:
    buffer = io.BytesIO()
    picture = Image.fromarray(composed.pixels)
    if config.image_format == "jpeg":
        picture.save(buffer, format="JPEG", quality=_JPEG_QUALITY)
    else:
        picture.save(buffer, format="PNG")
    return buffer.getvalue()
