"""Copies a run with a person's corrections, out of a Label Studio project as JSON (`import --format label-studio`).

    [{"data": {"image": "…/<name>_<image id>.jpg"}, "annotations": [{"id": 7, "result": [result, …], …}, …]}, …]

Called by `cli/import_annotation.py`, and for `audit add` by `cli/studio_verdicts.py`. A region's mask and its texts are
results with one id. Texts under the name `absent` refer to nothing in the image.

A mask with unchanged pixels keeps its row; a changed or new mask gets a new id. If all masks of an image are unchanged,
masks with unchanged texts keep their expressions. Otherwise the scores, which compare a mask with the others, are void:
all expressions of single masks become the person's. An expression of several masks stays if all of these do. Rows of
all other images stay the same, byte for byte.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Annotated, Final, NamedTuple
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import AliasPath, BaseModel, FailFast, Field, TypeAdapter, ValidationError

from pseudoris.files.location import RunLocation
from pseudoris.interchange.brush_strokes import values_of_strokes
from pseudoris.interchange.imports.annotation_files import PACKAGES, ImportRequest, read_named_file
from pseudoris.interchange.imports.human_annotation import (
    HumanImage,
    HumanMask,
    HumanPhrase,
    annotate_image,
    clean_texts,
    shown,
)
from pseudoris.interchange.imports.import_run import ImportSummary
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.rle import areas, canonical_counts, compressed_counts, ious, match_masks
from pseudoris.schemas.config import ImagesConfig
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.run_records import RunHeader, ShardCounts
from pseudoris.schemas.shard import ExpressionRecord, Shard, ShardImage, clean_text
from pseudoris.schemas.tables import EXPRESSIONS, IMAGES, MASKS
from pseudoris.store.runs.commit import in_plan_order, without
from pseudoris.store.runs.parents import DerivedShard, Parent
from pseudoris.store.runs.planned_run import RunRequest, package_versions
from pseudoris.store.sessions.thread_executor import OnProgress, derive_run
from pseudoris.store.tables.annotations import AnnotatedImage, iter_annotations
from pseudoris.store.tables.open_run import CommittedShard
from pseudoris.store.tables.shard_tables import shard_tables, table_bytes, table_counts, texts_in_splits

_BRUSH: Final = ("brush", "brushlabels")
_POLYGON: Final = ("polygon", "polygonlabels")
_ABSENT: Final = "absent"
# Exports write the image's id at the end of the image's name.
_IMAGE_ID: Final = re.compile(r"([0-9a-f]{16})\.(?:jpg|png)$")
_OPAQUE: Final = 128
_CORRECTED, _ACCEPTED, _SKIPPED = "corrected", "accepted as they are", "skipped"
_OTHER_RUN: Final = "Give the run that the tasks were exported from."


class _Result(BaseModel):
    """A mask, or the texts of a region; the points of a polygon are in hundredths of the image's sides."""

    id: str = ""
    type: str
    from_name: str = ""
    rle: Annotated[list[int], FailFast()] = Field([], validation_alias=AliasPath("value", "rle"))
    points: Annotated[list[tuple[float, float]], FailFast()] = Field([], validation_alias=AliasPath("value", "points"))
    text: list[str] = Field([], validation_alias=AliasPath("value", "text"))
    original_height: int = 0
    original_width: int = 0
    image_rotation: float = 0


class TaskAnnotation(BaseModel):
    """A person's answer to a task."""

    id: int | None = None
    result: list[_Result]
    was_cancelled: bool = False
    ground_truth: bool = False
    updated_at: str | None = None


class _Task(BaseModel):
    image: str = Field(validation_alias=AliasPath("data", "image"))
    annotations: list[TaskAnnotation]


_PROJECT: Final = TypeAdapter(list[_Task])


class Region(NamedTuple):
    """A mask as a person left it, in the encoding that pycocotools gives for its pixels, with its expressions."""

    counts: str
    texts: tuple[str, ...]


def read_tasks(data: bytes, name: str) -> dict[str, TaskAnnotation]:
    """Return one annotation of each image, by image id; a file that is not Label Studio's is a ConfigError.

    An annotation that was not skipped counts first, then a ground truth, then the latest.
    """
    try:
        tasks = _PROJECT.validate_json(data)
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        place = "".join(f"[{each!r}]" for each in item["loc"])
        raise ConfigError(
            f"{name}{place}: {item['msg']}, got {shown(item['input'])}. In Label Studio, export the project as JSON "
            "(not JSON-MIN)."
        ) from None
    found: defaultdict[str, list[TaskAnnotation]] = defaultdict(list)
    for task in tasks:
        image = _IMAGE_ID.search(unquote(task.image))
        if image is None:
            raise ConfigError(
                f"{name} has a task that shows {shown(task.image)}, which is no image of `pseudoris export --format "
                "label-studio`. Give the file of a project whose tasks that command wrote."
            )
        found[image[1]] += task.annotations
    if not any(found.values()):
        raise ConfigError(
            f"{name} has no annotation. Submit some tasks in Label Studio, then export the project as JSON."
        )
    return {
        image: max(given, key=lambda a: (not a.was_cancelled, a.ground_truth, a.updated_at or "", a.id or 0))
        for image, given in found.items()
        if given
    }


def read_regions(
    annotation: TaskAnnotation, size: tuple[int, int], left_out: Counter[str], *, where: str
) -> tuple[list[Region], tuple[str, ...]]:
    """Return the regions of an image of upright (height, width) `size`, and the expressions that refer to no mask.

    A result that is damaged, of an unknown type or another size is a ConfigError; `where` names the image.
    """
    drawn: dict[str, str] = {}
    texts: defaultdict[str, list[str]] = defaultdict(list)
    for number, result in enumerate(annotation.result):
        place = f"{where}, result {number}"
        if result.type == "textarea":
            texts[_ABSENT if result.from_name == _ABSENT else result.id] += result.text
        elif result.id in drawn:
            raise ConfigError(f"{place} is a second mask with the id {shown(result.id)}. Delete one in Label Studio.")
        else:
            drawn[result.id] = _counts(result, size, place)
    # What the run has itself, as a token, is no change.
    clean = partial(clean_texts, left_out=left_out, where=where, markers=())
    absent = clean(texts.pop(_ABSENT, ()))
    regions = [Region(drawn[each], clean(texts.pop(each, ()))) for each in drawn]
    left_out["expressions of deleted regions"] += sum(map(len, texts.values()))
    filled = [region for region in regions if areas([region.counts], size)[0]]
    left_out["regions without a pixel"] += len(regions) - len(filled)
    return filled, absent


def _counts(result: _Result, size: tuple[int, int], place: str) -> str:
    if result.type not in (*_BRUSH, *_POLYGON):
        raise ConfigError(
            f"{place} is {shown(result.type)}. Only brushes, polygons and texts can be read. Delete it in Label Studio."
        )
    if (result.original_height, result.original_width) != size:
        raise ConfigError(
            f"{place} is of an image of {result.original_height} x {result.original_width} pixels (height x width), "
            f"but the image has {size[0]} x {size[1]}. {_OTHER_RUN}"
        )
    if result.image_rotation:
        raise ConfigError(f"{place} is of a rotated image. Turn it back in Label Studio, then correct it.")
    try:
        if result.type in _BRUSH:
            return canonical_counts(values_of_strokes(result.rle, size)[..., 3] >= _OPAQUE)
        points = [part for x, y in result.points for part in (x * size[1] / 100, y * size[0] / 100)]
        return str(compressed_counts([points], size))
    except ValueError as error:
        raise ConfigError(
            f"{place} has a mask that cannot be read ({error}). Draw it again in Label Studio."
        ) from error


class Correction(NamedTuple):
    """An image with a person's masks, and their expressions in place of those that go.

    `same` are the masks with unchanged pixels, `left` those that keep their expressions too; "" stands for expressions
    that refer to no mask.
    """

    image: ShardImage
    same: frozenset[str]
    left: frozenset[str]

    def keeps(self, targets: Sequence[str]) -> bool:
        """Return whether an expression of the run that refers to these masks stays."""
        return self.same.issuperset(targets) if len(targets) > 1 else "".join(targets) in self.left


def correct_run(
    request: ImportRequest, location: RunLocation, *, on_progress: OnProgress, on_wait: Callable[[str], None]
) -> ImportSummary:
    """Write the run `request.images`, with the corrections in `request.annotation`, to `location`; or continue that.

    A damaged file, or one of another run, is a ConfigError.
    """
    config = request.config
    data, name = read_named_file(request.annotation, config)
    given = RunLocation.open(request.images, config.source.endpoint_url, config.placement.storage)
    parent = Parent.open(given, location)
    num_tasks, left_out = Counter({_CORRECTED: 0, _ACCEPTED: 0, _SKIPPED: 0}), Counter[str]()
    # Corrections are read before anything is written, so a wrong file leaves nothing behind.
    header, tasks, corrections = parent.header, read_tasks(data, name), defaultdict[int, list[Correction]](list)
    left = dict(tasks)
    for receipt in parent.receipts(parent.pin()):
        shard = CommittedShard(parent.location, receipt)
        is_named = not tasks.keys().isdisjoint(shard.table(IMAGES, ("image_id",))["image_id"].to_pylist())
        for image in iter_annotations([shard] if is_named else []):
            if image.image_id not in tasks:
                continue
            task, correction = left.pop(image.image_id), None
            if not task.was_cancelled:
                where = f"{name}, image {image.image_id}"
                correction = _correction(image, task, header.of_shard(image.shard).config.images, left_out, where)
            num_tasks[_SKIPPED if task.was_cancelled else _CORRECTED if correction else _ACCEPTED] += 1
            if correction is not None:
                corrections[image.shard].append(correction)
    if left:
        raise ConfigError(
            f"{name} has {len(tasks):,} annotated images, but {parent.location.root} lacks {len(left):,} of them, such "
            f"as {min(left)}. {_OTHER_RUN}"
        )
    method = {**header.identity.method, "corrections": {name: sha256_hex(data)}}
    versions = {**header.identity.versions, **package_versions(PACKAGES)}
    identity = header.identity.model_copy(update={"method": method, "versions": versions})
    held = header.config.model_copy(update={"placement": config.placement})
    wanted = RunRequest("import", header.source, identity, held)
    rewrite, workers = partial(_rewritten, corrections), request.num_workers
    _, written = derive_run(
        location, parent, wanted, rewrite, num_workers=workers, on_progress=on_progress, on_wait=on_wait
    )
    return ImportSummary(**vars(written), left_out=+left_out, num_tasks=+num_tasks)


def _correction(
    image: AnnotatedImage, task: TaskAnnotation, limits: ImagesConfig, left_out: Counter[str], where: str
) -> Correction | None:
    """Return what a person made of an image; None if all was left as it is."""
    size = (image.height, image.width)
    regions, absent = read_regions(task, size, left_out, where=where)
    overlaps = ious([mask.rle_counts for mask in image.masks], [region.counts for region in regions], size)
    # Regions are matched by their pixels, because a copied or redrawn region has another id.
    same = {place: image.masks[mask] for mask, place in match_masks(overlaps, min_iou=1.0).items()}
    free = count(1 + max((mask.index for mask in image.masks), default=-1))
    placed = sorted((same[at].index if at in same else next(free), each) for at, each in enumerate(regions))
    drawn = (HumanMask(index, task.id or 0, {"size": size, "counts": each.counts}) for index, each in placed)
    said = (HumanPhrase((index,), text) for index, each in placed for text in each.texts)
    human = HumanImage(image.key, size, tuple(drawn), (*said, *(HumanPhrase((), text) for text in absent)))
    bare = ShardImage(0, image.image_id, image.key, height=image.height, width=image.width)
    made = annotate_image(bare, human, orientation="upright", limits=limits)
    rows = {mask.mask_id: mask for mask in same.values()}
    made = replace(made, masks=tuple(rows.get(each.mask_id, each) for each in made.masks))
    of_masks = [each for mask in image.masks for each in mask.expressions if each.target_mask_ids[0] == mask.mask_id]
    stated, unchanged = (*of_masks, *image.untargeted), frozenset(rows)
    left = frozenset[str]()
    if len(same) == len(regions) == len(image.masks):
        before = _texts(each for each in stated if each.kept)
        after = _texts(made.expressions)
        left = frozenset(each for each in (*unchanged, "") if before[each] == after[each])
        if len(left) > len(unchanged):
            return None
    anew = tuple(each for each in made.expressions if "".join(each.target_mask_ids) not in left)
    correction = Correction(replace(made, expressions=anew), unchanged, left)
    gone = [each for each in stated if not correction.keeps(each.target_mask_ids)]
    seen = Counter(clean_text(each.text) for each in gone if each.kept and len(each.target_mask_ids) < 2)
    stay = seen & Counter(each.text for each in anew)
    of_several = sum(len(each.target_mask_ids) > 1 for each in gone)
    left_out["expressions of several masks, one of which was changed"] += of_several
    left_out["candidates of corrected masks that were not kept"] += sum(not each.kept for each in gone)
    left_out["expressions that were deleted or reworded"] += (seen - stay).total()
    left_out["scores of expressions that stay, in corrected images"] += stay.total()
    return correction


def _texts(said: Iterable[ExpressionRecord]) -> defaultdict[str, set[str]]:
    """Return the texts of each mask alone, and under "" those that refer to no mask."""
    found = defaultdict[str, set[str]](set)
    for each in said:
        if len(each.target_mask_ids) < 2:
            found["".join(each.target_mask_ids)].add(clean_text(each.text))
    return found


def _rewritten(
    corrections: Mapping[int, Sequence[Correction]], header: RunHeader, shard: DerivedShard, contents: dict[str, bytes]
) -> tuple[Mapping[str, bytes], ShardCounts]:
    before = shard.receipt
    chosen = corrections.get(before.shard)
    if not chosen:
        return contents, before.counts
    old = shard.tables(contents)
    made = shard_tables(Shard(before.shard, 0, tuple(each.image for each in chosen)), embed_images=False)
    changed, order = (each[IMAGES]["image_id"].combine_chunks() for each in (made, old))
    masks = in_plan_order([without(old[MASKS], changed), made[MASKS]], order)
    said, by_image = old[EXPRESSIONS], {each.image.image_id: each for each in chosen}
    targets = zip(said["image_id"].to_pylist(), said["target_mask_ids"].to_pylist(), strict=True)
    stays = [image not in by_image or by_image[image].keeps(of) for image, of in targets]
    said = said.filter(pa.array(stays, pa.bool_()))
    # The columns `grounding_…` compare an expression with a rival mask. They become null if that mask was deleted.
    is_gone = pc.invert(pc.is_in(said["grounding_rival"], masks["mask_id"].combine_chunks(), skip_nulls=False))
    is_gone = pc.and_(pc.is_valid(said["grounding_rival"]), is_gone)
    for name in ("grounding_choice", "grounding_share", "grounding_rival"):
        at, kind = said.schema.get_field_index(name), said.schema.field(name)
        said = said.set_column(at, kind, pc.if_else(is_gone, pa.scalar(None, kind.type), said[name]))
    expressions = in_plan_order([said, made[EXPRESSIONS]], order)
    expressions = texts_in_splits(expressions, old[IMAGES]) if header.splits else expressions
    # The status of an image may change, because a person may have drawn its first mask or deleted its last one.
    images, status = old[IMAGES], made[IMAGES]["status"].combine_chunks()
    status = pc.replace_with_mask(images["status"].combine_chunks(), pc.is_in(order, changed), status)
    place = images.schema.get_field_index("status")
    images = images.set_column(place, images.schema.field(place), status)
    new = {**old, IMAGES: images, MASKS: masks, EXPRESSIONS: expressions}
    written = {table: contents[table] if each.equals(old[table]) else table_bytes(each) for table, each in new.items()}
    return written, ShardCounts(**table_counts(new))
