"""A run with a person's corrections in Label Studio: `import --format label-studio` writes it out of the corrected run.

An image that the person changed has the person's masks and expressions. A mask whose pixels were left keeps its row; a
changed or a new one gets an id that no mask had. Rows of all other images stay the same, byte for byte.
"""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pseudoris.schemas.config import ImagesConfig
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.run_records import Receipt, RunHeader, ShardCounts
from pseudoris.schemas.shard import Shard, ShardImage, clean_text
from pseudoris.schemas.tables import EXPRESSIONS, IMAGES, MASKS, SCHEMAS
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.commit import in_plan_order
from pseudoris.store.runs.derived_run import derive_run
from pseudoris.store.runs.planned_run import Parent, package_versions, plan_as_parent
from pseudoris.store.runs.session import OnProgress
from pseudoris.store.tables.annotations import AnnotatedImage, AnnotatedMask, iter_annotations
from pseudoris.store.tables.committed_tables import read_part, read_table
from pseudoris.store.tables.shard_tables import shard_tables, table_bytes, table_counts
from pseudoris.training.imports.annotation_files import read_named
from pseudoris.training.imports.human_annotation import HumanImage, HumanMask, HumanPhrase, annotate_image
from pseudoris.training.imports.import_run import PACKAGES, ImportRequest, ImportSummary
from pseudoris.training.imports.label_studio import StudioTask, read_regions, read_tasks

_TASKS: Final = ("corrected", "accepted as they are", "skipped")


class Correction(NamedTuple):
    """An image with a person's masks and expressions, the ids of masks whose rows stay, and whether all stay."""

    image: ShardImage
    unchanged: frozenset[str]
    has_same_masks: bool


def correct_run(
    request: ImportRequest, location: RunLocation, *, on_progress: OnProgress, on_wait: Callable[[str], None]
) -> ImportSummary:
    """Write the run `request.images`, with the corrections in `request.annotation`, to `location`; or continue that.

    A damaged file, or one of another run, is a ConfigError.
    """
    config = request.config
    data, name = read_named(request.annotation, config)
    tasks, told = read_tasks(data, name), Counter[str]()
    given = RunLocation.open(request.images, config.source.endpoint_url, config.placement.storage)
    parent = Parent.open(given, location)
    # Before anything is written: a wrong file leaves nothing behind.
    corrections = _corrections(parent, tasks, name, told)
    before = parent.header.identity
    changed = {
        "method": {**before.method, "corrections": {name: sha256_hex(data)}},
        "versions": {**before.versions, **package_versions(PACKAGES)},
    }
    plan = partial(
        plan_as_parent,
        location,
        parent,
        origin="import",
        identity=before.model_copy(update=changed),
        config=parent.header.config,
        allow_mixed=config.placement.allow_mixed,
    )
    rewrite = partial(_rewritten, corrections)
    planned, outcome = derive_run(
        location,
        parent,
        plan,
        rewrite,
        num_threads=request.num_workers,
        on_progress=on_progress,
        on_notice=on_wait,
    )
    num_tasks = {what: told.pop(what) for what in _TASKS if what in told}
    return ImportSummary(planned.header, outcome.totals, outcome.num_shards_before, +told, 0, num_tasks)


def _corrections(
    parent: Parent, tasks: Mapping[str, StudioTask], name: str, told: Counter[str]
) -> dict[int, list[Correction]]:
    """Return what was changed, by shard."""
    found: defaultdict[int, list[Correction]] = defaultdict(list)
    left, location = dict(tasks), parent.location
    for receipt in parent.receipts(parent.pin()):
        if left.keys().isdisjoint(read_table(location, IMAGES, ("image_id",), [receipt])["image_id"].to_pylist()):
            continue
        for image in iter_annotations(location, [receipt], kept_only=True):
            if (task := left.pop(image.image_id, None)) is None:
                continue
            correction = (
                _correction(image, task, parent.header.config.images, told) if task.results is not None else None
            )
            told[_TASKS[2 if task.results is None else correction is None]] += 1
            if correction is not None:
                found[receipt.shard].append(correction)
    if left:
        raise ConfigError(
            f"{name} has {len(tasks):,} annotated images, but {location.root} lacks {len(left):,} of them, such as "
            f"{min(left)}. Give the run that the tasks were exported from."
        )
    return dict(found)


def _correction(
    image: AnnotatedImage, task: StudioTask, limits: ImagesConfig, left_out: Counter[str]
) -> Correction | None:
    """Return what a person made of an image; None if all was left as it is."""
    size = (image.height, image.width)
    masks = {mask.mask_id: mask for mask in image.masks}
    regions, absent = read_regions(task, size, {name: mask.rle_counts for name, mask in masks.items()}, left_out)
    has_same_masks = len(regions) == len(masks) and all(region.mask_id for region in regions)
    if (
        has_same_masks
        and set(absent) == {clean_text(each.text) for each in image.untargeted}
        and all(set(region.texts) == _texts(masks[region.mask_id or ""]) for region in regions)
    ):
        return None
    free = count(1 + max((mask.index for mask in image.masks), default=-1))
    placed = [(masks[each.mask_id].index if each.mask_id else next(free), each) for each in regions]
    placed.sort(key=lambda each: each[0])
    human = HumanImage(
        image.key,
        size,
        tuple(HumanMask(index, task.annotation_id, {"size": size, "counts": each.counts}) for index, each in placed),
        (
            *(HumanPhrase((index,), text) for index, each in placed for text in each.texts),
            *(HumanPhrase((), text) for text in absent),
        ),
    )
    bare = ShardImage(0, image.image_id, image.key, height=image.height, width=image.width)
    made = annotate_image(bare, human, orientation="upright", limits=limits)
    return Correction(made, frozenset(each.mask_id for each in regions if each.mask_id), has_same_masks)


def _texts(mask: AnnotatedMask) -> set[str]:
    return {clean_text(each.text) for each in mask.expressions if len(each.target_mask_ids) == 1}


def _rewritten(
    corrections: Mapping[int, Sequence[Correction]], _: RunHeader, before: Receipt, contents: dict[str, bytes]
) -> tuple[Mapping[str, bytes], ShardCounts]:
    """Return a shard of the corrected run with what was changed in it."""
    chosen = corrections.get(before.shard)
    if not chosen:
        return contents, before.counts
    old = {table: read_part(io.BytesIO(data), SCHEMAS[table], table) for table, data in contents.items()}
    new = shard_tables(Shard(before.shard, 0, tuple(each.image for each in chosen)), embed_images=False)
    order, images = old[IMAGES]["image_id"].combine_chunks(), new[IMAGES]["image_id"].combine_chunks()
    # The first mask may have been drawn, or the last one deleted.
    now = dict(zip(images.to_pylist(), new[IMAGES]["status"].to_pylist(), strict=True))
    rows = zip(order.to_pylist(), old[IMAGES]["status"].to_pylist(), strict=True)
    status = pa.array([now.get(image, was) for image, was in rows], pa.string())
    place = old[IMAGES].schema.get_field_index("status")
    unchanged = pa.array([mask for each in chosen for mask in each.unchanged], pa.string())
    same = pa.array([each.image.image_id for each in chosen if each.has_same_masks], pa.string())
    masks, said = old[MASKS], old[EXPRESSIONS]
    stays = pc.or_(_is_other(masks["image_id"], images), pc.is_in(masks["mask_id"], unchanged))
    added = new[MASKS].filter(_is_other(new[MASKS]["mask_id"], unchanged))
    is_group = pc.greater(pc.list_value_length(said["target_mask_ids"]), 1)
    is_said = pc.or_(_is_other(said["image_id"], images), pc.and_(is_group, pc.is_in(said["image_id"], same)))
    tables = {
        **old,
        IMAGES: old[IMAGES].set_column(place, old[IMAGES].schema.field(place), status),
        MASKS: in_plan_order([pa.concat_tables([masks.filter(stays), added]).sort_by("mask_id")], order),
        EXPRESSIONS: in_plan_order([said.filter(is_said), new[EXPRESSIONS]], order),
    }
    written = {
        table: contents[table] if each.equals(old[table]) else table_bytes(each) for table, each in tables.items()
    }
    return written, ShardCounts(**table_counts(tables))


def _is_other(column: pa.ChunkedArray, values: pa.Array) -> pa.ChunkedArray:
    return pc.invert(pc.is_in(column, values))
