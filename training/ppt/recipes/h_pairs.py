"""Makes H_sem and H_ref: pseudo-masks from the images and texts of a run, without reading its masks (section 3.3)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import pyarrow.compute as pc

from pseudoris.images.pixels import decode_upright, import_plugins
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.run_records import PlanEntry, Receipt
from pseudoris.schemas.shard import ExpressionRecord, Failure, Shard, ShardImage
from pseudoris.schemas.tables import EXPRESSIONS, FAILURES
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.planned_run import Parent, plan_as_parent
from pseudoris.store.sources.planned_images import PlannedImages
from pseudoris.store.tables.annotations import AnnotatedImage, iter_annotations
from pseudoris.store.tables.committed_tables import iter_table, read_table
from pseudoris.training.exports.selected_rows import with_source_bytes
from pseudoris.training.ppt.recipes.grounding import GroundedMask, Grounder, Peaks
from pseudoris.training.ppt.recipes.recipe_config import RecipeConfig
from pseudoris.training.ppt.recipes.recipe_runs import ORIGIN, STAGE_RECIPE, Recipe, mask_records, pseudo_mask_rows
from pseudoris.training.thread_executor import OnProgress, WrittenRun, write_run
from pseudoris.workers.filtering.head_nouns import head_noun, noun_phrases

RECIPE: Final = "pairs"


def pair_masks(
    source: str,
    location: RunLocation,
    config: RecipeConfig,
    *,
    on_progress: OnProgress,
    on_wait: Callable[[str], None],
) -> WrittenRun:
    """Write H: the pseudo-masks of each kept text, from CLIP's response and SAM's masks for each of its noun phrases.

    Near-equal masks are merged into one. Texts with one mask are H_sem (c = 1). Texts with more are H_ref, all with c =
    0 until Select has seen them. If SAM returns no pixel for any phrase of a text, the text has no row.

    `source` is a complete run of any origin, whose images and kept texts are read; the new run has its plan, image by
    image. The rest is as of `write_run` and `Recipe.held`.
    """
    import_plugins(config.run.images.decoder_plugins)
    parent = Parent.open(RunLocation.open(source), location)
    nouns = frequent_nouns(parent.location, config.pairs.num_redundant)
    recipe = Recipe(RECIPE, config, config.pairs.model_dump(mode="json"), has_models=True)
    with recipe.held(location, on_wait) as (identity, lock):
        allow_mixed = config.run.placement.allow_mixed
        planned = plan_as_parent(
            location, parent, origin=ORIGIN, identity=identity, config=config.run, allow_mixed=allow_mixed
        )
        receipts = {receipt.shard: receipt for receipt in parent.receipts(planned.parent)}
        grounder = Grounder(config.grounding, config.run)

        def make(entries: Sequence[PlanEntry]) -> Shard:
            return _shard(entries, parent, receipts[entries[0].shard], grounder, nouns, config)

        return write_run(location, planned, make, lock=lock, on_progress=on_progress)


def frequent_nouns(location: RunLocation, count: int) -> list[str]:
    """Return the most frequent head nouns of a run's kept texts, ties by the alphabet; a run without any is refused."""
    texts: Counter[str] = Counter()
    for table in iter_table(location, EXPRESSIONS, ["text", "kept"]):
        texts.update(table["text"].filter(pc.fill_null(table["kept"], fill_value=False)).to_pylist())
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


def _shard(
    entries: Sequence[PlanEntry],
    parent: Parent,
    receipt: Receipt,
    grounder: Grounder,
    nouns: Sequence[str],
    config: RecipeConfig,
) -> Shard:
    started = time.perf_counter()
    location, header = parent.location, parent.header
    is_embedded = header.config.shards.embed_images
    annotated = list(iter_annotations(location, [receipt], kept_only=True, with_bytes=is_embedded))
    readable = {
        each.image_id: each for each in with_source_bytes(PlannedImages(location, header), annotated, Counter())
    }
    failures = {
        row["image_id"]: Failure(row["stage"], row["reason"], row["message"])
        for row in read_table(location, FAILURES, receipts=[receipt]).to_pylist()
    }
    images = []
    for entry in entries:
        image = ShardImage(entry.position, entry.image_id, entry.key)
        found = readable.get(entry.image_id)
        if found is None:
            failure = failures.get(entry.image_id) or Failure(
                STAGE_RECIPE, "missing", "The image that was annotated is not there any more, or is another one."
            )
            images.append(image.quarantined(failure))
            continue
        images.append(_paired(image, found, grounder, nouns, config))
    return Shard(entries[0].shard, 0, tuple(images)).with_seconds(STAGE_RECIPE, time.perf_counter() - started)


def _paired(
    image: ShardImage, source: AnnotatedImage, grounder: Grounder, nouns: Sequence[str], config: RecipeConfig
) -> ShardImage:
    """The image with the pseudo-masks of each of its texts; a phrase that several texts have is answered once."""
    data = source.data or b""
    image = replace(image, data=data, sha256=source.sha256, height=source.height, width=source.width)
    # The kept texts of the image, each once.
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
    masks = mask_records(image.image_id, [each.mask for each in objects], RECIPE, predicted)
    ids = [mask.mask_id for mask in masks]
    rows: list[ExpressionRecord] = []
    for text, said in phrases_of.items():
        places = sorted(set().union(*(places_of[phrase] for phrase in said)))
        confidences = [len(places) == 1] * len(places)
        rows += pseudo_mask_rows(text, [ids[at] for at in places], confidences, kind="attribute")
    return replace(image, masks=masks, expressions=tuple(rows))
