"""Makes D_sem: pairs with one pseudo-label each, from object-centric images and their classes (section 3.2)."""

from __future__ import annotations

import csv
import heapq
import io
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from pseudoris.images.pixels import decode_upright
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.run_records import PlanEntry
from pseudoris.schemas.shard import Shard, ShardImage
from pseudoris.store.files.key_order import file_path
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.planned_run import RunRequest, plan_or_continue
from pseudoris.store.sources import Source, SourceItem, open_source
from pseudoris.store.sources.proven_shard import read_shard
from pseudoris.training.ppt.recipes.grounding import Grounder
from pseudoris.training.ppt.recipes.recipe_config import RecipeConfig
from pseudoris.training.ppt.recipes.recipe_runs import ORIGIN, STAGE_RECIPE, Recipe, mask_records, pseudo_mask_rows
from pseudoris.training.ppt.recipes.recipe_texts import middle_text
from pseudoris.training.thread_executor import OnProgress, WrittenRun, proving, write_run

RECIPE: Final = "objects"
# Folders that a message names; the others it counts.
_NAMED: Final = 5

logger = logging.getLogger(__name__)


def make_objects(
    folder: str,
    location: RunLocation,
    config: RecipeConfig,
    *,
    names: Path | None = None,
    sample: int | None = None,
    on_note: Callable[[str], None] = logger.warning,
    on_progress: OnProgress,
    on_wait: Callable[[str], None],
) -> WrittenRun:
    """Write D_sem: of each image of a class the text "the [class name] in the middle", CLIP's response and SAM's mask.

    An image for which SAM answers with no pixel is `empty`. Flips are drawn in each epoch when pairs are loaded
    (`pseudoris.training.ppt.pairs`), so the tables hold no mirrored copies.

    `folder`, a path or url, has a folder of images for each class, as Mini-ImageNet. `names` is a table of class names,
    CSV with the columns `folder` and `name`, which has every folder; None takes the folders' own. `sample` takes so
    many images alone, drawn by `compute.seed` from all folders together. `on_note` is told of rows of `names` whose
    folder does not exist. The rest is as of `write_run` and `Recipe.held`.
    """
    run = config.run
    source = open_source(folder, run.source, exclude=location.root, limits=run.placement.storage)
    try:
        table = None if names is None else names.read_bytes()
    except OSError as error:
        raise ConfigError(f"--names {names} cannot be read ({error.strerror}). Give a CSV file.") from None
    # A second listing is cheap compared with the models. It gives all classes.
    folders = {class_folder(item.key) for item in source.list()}
    if not folders:
        raise ConfigError(f"FOLDER {folder!r} has no images. It needs one folder of images per class, CLASS/*.jpg.")
    classes = _classes(None if table is None else read_names(table), folders, f"--names {names}", on_note)
    every = sorted(set(classes.values()))
    drawn = {} if sample is None else {"sample": sample}
    digest = None if table is None else sha256_hex(table)
    recipe = Recipe(RECIPE, config, {"names": digest, "classes": every, **drawn}, has_models=True)
    with proving(run.images, 1) as provers, recipe.held(location, on_wait) as (identity, lock):
        request = RunRequest(ORIGIN, source.name, identity, run, allow_mixed=run.placement.allow_mixed)
        planned = plan_or_continue(location, request, lambda: _sampled(source, sample, run.compute.seed))
        grounder, prover = Grounder(config.grounding, run), provers.get()

        def make(entries: Sequence[PlanEntry]) -> Shard:
            shard = read_shard(source.name, run, entries, prover=prover)
            started = time.perf_counter()
            images = tuple(_labelled(each, classes, every, grounder, config) for each in shard.images)
            return shard.with_images(images).with_seconds(STAGE_RECIPE, time.perf_counter() - started)

        return write_run(location, planned, make, lock=lock, on_progress=on_progress)


def _sampled(source: Source, size: int | None, seed: int) -> Iterable[SourceItem]:
    """The images to plan: those whose keys have the lowest hashes, so that a larger sample holds a smaller one."""
    if size is None:
        return source.list()
    items = list(source.list())
    keys = {item.key for item in items}
    if size > len(keys):
        raise ConfigError(f"--sample {size:,}: FOLDER has {len(keys):,} images. Give at most as many, or leave it out.")
    drawn = set(heapq.nsmallest(size, keys, key=lambda key: sha256_hex(f"{seed} {key}".encode())))
    return (item for item in items if item.key in drawn)


def class_folder(key: str) -> str:
    """Return the folder of an image, which is named after its class; an image without one is refused."""
    folder = file_path(key).rpartition("/")[0].rpartition("/")[2]
    if not folder:
        raise ConfigError(f"image {key} is not in a class folder. FOLDER/<class>/<image> is needed.")
    return folder


def read_names(data: bytes) -> dict[str, str]:
    """Return class names by folder out of CSV with the columns `folder` and `name`."""
    try:
        rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(
            f"the table of class names is not readable as CSV in UTF-8 ({type(error).__name__})"
        ) from None
    names: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        folder, name = row.get("folder"), row.get("name")
        if not folder or not name or not name.strip():
            raise ConfigError(
                f"line {number} of the class names has no folder or no name. The columns folder,name are needed."
            )
        if names.setdefault(folder, name) != name:
            raise ConfigError(f"line {number} of the class names repeats the folder {folder!r}. Name each folder once.")
    return names


def _classes(
    names: Mapping[str, str] | None, folders: Collection[str], option: str, on_note: Callable[[str], None]
) -> dict[str, str]:
    """The class of each folder, by default its own name with underscores as spaces.

    A folder that the names lack is refused, for texts would say "the n01532829".
    """
    if names is None:
        names = {folder: folder.replace("_", " ").replace("-", " ") for folder in folders}
    missing, unknown = sorted(set(folders) - set(names)), sorted(set(names) - set(folders))
    if missing:
        raise ConfigError(
            f"{option} does not name {len(missing):,} of {len(folders):,} folders of images: {_listed(missing)}. Add "
            "a row folder,name for each. If all folders have the name of their class, leave --names out."
        )
    if unknown:
        on_note(f"{option}: {len(unknown):,} folders without images are ignored: {_listed(unknown)}")
    return {folder: " ".join(names[folder].lower().split()) for folder in folders}


def _listed(folders: Sequence[str]) -> str:
    rest = [f"and {len(folders) - _NAMED:,} more"] if len(folders) > _NAMED else []
    return ", ".join([*map(repr, folders[:_NAMED]), *rest])


def _labelled(
    image: ShardImage, classes: Mapping[str, str], every: Sequence[str], grounder: Grounder, config: RecipeConfig
) -> ShardImage:
    """The image with its one pseudo-label: E = 1 and ĉ = 1."""
    if image.failure is not None:
        return image
    pixels = decode_upright(image.data, config.run.images)
    name = classes[class_folder(image.key)]
    found = grounder(np.ascontiguousarray(pixels), [name], every if len(every) > 1 else ())
    masks = mask_records(image.image_id, [each.mask for each in found], RECIPE, [each.predicted_iou for each in found])
    rows = pseudo_mask_rows(middle_text(name), [mask.mask_id for mask in masks], [True] * len(masks), kind="position")
    return replace(image, masks=masks, expressions=rows)
