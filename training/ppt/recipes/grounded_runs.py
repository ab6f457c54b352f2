"""Makes D_sem and H for `pseudoris ppt`: runs whose pseudo-masks are what CLIP and SAM find for a text.

D_sem has one pseudo-label a pair, from object-centric images and their classes (section 3.2). H_sem and H_ref are made
from the images and texts of a run, without reading its masks (section 3.3). Called by `cli/ppt.py` and experiments.
"""

from __future__ import annotations

import csv
import heapq
import io
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from pseudoris.files.key_order import file_path
from pseudoris.files.location import RunLocation
from pseudoris.images.pixels import decode_upright, import_plugins
from pseudoris.images.prover import Prover
from pseudoris.interchange.exports.selected_rows import with_source_bytes
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.head_nouns import head_noun, noun_phrases
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.run_records import PlanEntry
from pseudoris.schemas.shard import ExpressionRecord, Failure, Shard, ShardImage
from pseudoris.schemas.tables import EXPRESSIONS, FAILURES
from pseudoris.store.runs.header import read_header, require_header
from pseudoris.store.runs.parents import Parent
from pseudoris.store.runs.planned_run import RunRequest, plan_run
from pseudoris.store.sessions.thread_executor import OnProgress, WrittenRun, write_run
from pseudoris.store.sources import Source, SourceItem, open_source
from pseudoris.store.sources.proven_shard import read_shard
from pseudoris.store.tables.annotations import AnnotatedImage, iter_annotations
from pseudoris.store.tables.image_bytes import PlannedImages
from pseudoris.store.tables.open_run import CommittedShard, OpenRun, failures_by_image
from pseudoris.training.ppt.recipes.grounding import GroundedMask, Grounder, Peaks
from pseudoris.training.ppt.recipes.recipe_config import RecipeConfig
from pseudoris.training.ppt.recipes.recipe_runs import ORIGIN, STAGE_RECIPE, Recipe, pseudo_mask_rows, recipe_masks
from pseudoris.training.ppt.recipes.recipe_texts import middle_text

_OBJECTS: Final = "objects"
_PAIRS: Final = "pairs"
# A message names at most this many folders, and counts the others.
_NAMED: Final = 5
_GONE: Final = "The image that was annotated is not there any more, or is another one."
_MISSING: Final = Failure(STAGE_RECIPE, "missing", _GONE)

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
    config = config.reading_as(read_header(location))
    run = config.run
    source = open_source(folder, run.source, exclude=location.root, limits=run.placement.storage)
    try:
        table = None if names is None else names.read_bytes()
    except OSError as error:
        raise ConfigError(f"--names {names} cannot be read ({error.strerror}). Give a CSV file.") from None
    # SOURCE is listed here for its classes, and again later. Listing is cheap compared with the models.
    folders = {class_folder(item.key) for item in source.list()}
    if not folders:
        raise ConfigError(f"FOLDER {folder!r} has no images. It needs one folder of images per class, CLASS/*.jpg.")
    classes = _classes(None if table is None else read_names(table), folders, f"--names {names}", on_note)
    every = sorted(set(classes.values()))
    drawn = {} if sample is None else {"sample": sample}
    digest = None if table is None else sha256_hex(table)
    recipe = Recipe(_OBJECTS, config, {"names": digest, "classes": every, **drawn}, has_models=True)
    import_plugins(run.images.decoder_plugins)
    with Prover(run.images) as prover, recipe.held(location, on_wait) as (identity, lock):
        request = RunRequest(ORIGIN, source.name, identity, run, lock=lock)
        planned = plan_run(location, request, lambda: _sampled(source, sample, run.compute.seed))
        grounder = Grounder(config.grounding, run)

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
        raise ConfigError(f"the table of class names is not readable as CSV in UTF-8 ({error})") from None
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
    """The class of each folder, by default its own name with underscores as spaces."""
    if names is None:
        names = {folder: folder.replace("_", " ").replace("-", " ") for folder in folders}
    missing, unknown = sorted(set(folders) - set(names)), sorted(set(names) - set(folders))
    # A list of names must name every folder. Otherwise texts would hold folder codes, such as "the n01532829".
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
    masks = recipe_masks(
        image.image_id, [each.mask for each in found], _OBJECTS, [each.predicted_iou for each in found]
    )
    rows = pseudo_mask_rows(middle_text(name), [mask.mask_id for mask in masks], [True] * len(masks), kind="position")
    return replace(image, masks=masks, expressions=rows)


def pair_masks(
    source: str, location: RunLocation, config: RecipeConfig, *, on_progress: OnProgress, on_wait: Callable[[str], None]
) -> WrittenRun:
    """Write H: the pseudo-masks of each kept text, from CLIP's response and SAM's masks for each of its noun phrases.

    Near-equal masks are merged into one. Texts with one mask are H_sem (c = 1). Texts with more are H_ref, all with c =
    0 until Select has seen them. If SAM returns no pixel for any phrase of a text, the text has no row.

    `source` is a complete run of any origin, whose images and kept texts are read; the new run has its plan, image by
    image. The rest is as of `write_run` and `Recipe.held`.
    """
    import_plugins(config.run.images.decoder_plugins)
    parent = Parent.open(RunLocation.open(source), location)
    config = config.reading_as(parent.header)
    nouns = frequent_nouns(parent.location, config.pairs.num_redundant)
    recipe = Recipe(_PAIRS, config, config.pairs.model_dump(mode="json"), has_models=True)
    with recipe.held(location, on_wait) as (identity, lock):
        request = RunRequest(ORIGIN, parent.header.source, identity, config.run, lock=lock)
        planned = plan_run(location, request, parent)
        receipts = {receipt.shard: receipt for receipt in parent.receipts(planned.parent)}
        header = require_header(parent.location)
        is_embedded = header.config.shards.embed_images
        grounder = Grounder(config.grounding, config.run)

        def make(entries: Sequence[PlanEntry]) -> Shard:
            started, receipt = time.perf_counter(), receipts[entries[0].shard]
            planned_images = PlannedImages(parent.location, header)
            committed = CommittedShard(parent.location, receipt)
            annotated = list(iter_annotations([committed], kept_only=True, with_bytes=is_embedded))
            readable = {each.image_id: each for each in with_source_bytes(planned_images, annotated, Counter())}
            failures = failures_by_image(committed.table(FAILURES))
            made = []
            for entry in entries:
                image = ShardImage(entry.position, entry.image_id, entry.key)
                if found := readable.get(entry.image_id):
                    made.append(_paired(image, found, grounder, nouns, config))
                else:
                    made.append(image.quarantined(failures.get(entry.image_id, _MISSING)))
            return Shard(entries[0].shard, 0, tuple(made)).with_seconds(STAGE_RECIPE, time.perf_counter() - started)

        return write_run(location, planned, make, lock=lock, on_progress=on_progress)


def frequent_nouns(location: RunLocation, count: int) -> list[str]:
    """Return the most frequent head nouns of a run's kept texts, ties by the alphabet; a run without any is refused."""
    texts: Counter[str] = Counter()
    for shard in OpenRun.at(location).shards():
        table = shard.table(EXPRESSIONS, ["text", "kept"])
        texts.update(table["text"].filter(table["kept"]).to_pylist())
    if not texts:
        raise ConfigError(f"{location.root} has no kept expressions, so there is nothing to do.")
    nouns: Counter[str] = Counter()
    for text, times in texts.items():
        if (noun := head_noun(text)) is not None:
            nouns[noun] += times
    return sorted(nouns, key=lambda noun: (-nouns[noun], noun))[:count]


def merged(found: Sequence[GroundedMask], min_iou: float) -> list[GroundedMask]:
    """Return the pseudo-masks: of masks that overlap by at least `min_iou` the one that agrees best with its response.

    They come in the order of their phrases; a mask joins the best one that it is near-equal to, never a chain of them.
    """
    best_first = sorted(range(len(found)), key=lambda at: (-found[at].agreement, at))
    kept: list[int] = []
    for at in best_first:
        if all(_iou(found[at].mask, found[other].mask) < min_iou for other in kept):
            kept.append(at)
    return [found[at] for at in sorted(kept)]


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum()) / float((one | other).sum())


def _paired(
    image: ShardImage, source: AnnotatedImage, grounder: Grounder, nouns: Sequence[str], config: RecipeConfig
) -> ShardImage:
    """The image with the pseudo-masks of each of its texts; a phrase that several texts have is answered once."""
    data = source.data or b""
    image = replace(image, data=data, sha256=source.sha256, height=source.height, width=source.width)
    names = ("split", "phash", "picture", "picture_sha256", "picture_phash")
    image = replace(image, **{name: getattr(source, name) for name in names})
    image = replace(image, picture_size=tuple(source.picture_size or ()), tile_xyxy_px=tuple(source.tile_xyxy_px or ()))
    kept = dict.fromkeys(each.text for mask in source.masks for each in mask.expressions)
    phrases_of = {text: noun_phrases(text) or [text] for text in list(kept)[: config.pairs.max_texts_per_image]}
    phrases = list(dict.fromkeys(phrase for phrases in phrases_of.values() for phrase in phrases))
    if not phrases:
        return image
    pixels = np.ascontiguousarray(decode_upright(data, config.run.images))
    peaks = Peaks(config.pairs.peaks_per_phrase, config.pairs.min_peak)
    answers = grounder(pixels, phrases, nouns, peaks)
    # One mask of the table an object: texts that share a phrase, or name the same object in other words, share its
    # mask.
    objects = merged(answers, config.pairs.merge_iou)
    places_of: dict[str, set[int]] = {phrase: set() for phrase in phrases}
    for each in answers:
        places_of[each.phrase].add(int(np.argmax([_iou(each.mask, other.mask) for other in objects])))
    predicted = [each.predicted_iou for each in objects]
    masks = recipe_masks(image.image_id, [each.mask for each in objects], _PAIRS, predicted)
    ids = [mask.mask_id for mask in masks]
    rows: list[ExpressionRecord] = []
    for text, said in phrases_of.items():
        places = sorted(set().union(*(places_of[phrase] for phrase in said)))
        confidences = [len(places) == 1] * len(places)
        rows += pseudo_mask_rows(text, [ids[at] for at in places], confidences, kind="attribute")
    return replace(image, masks=masks, expressions=tuple(replace(each, split=source.split) for each in rows))
