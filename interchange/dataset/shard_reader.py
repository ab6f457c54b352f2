"""Reads a run shard by shard for a dataset: the masks that keep an expression, with the requested columns.

Called by this folder and `training`. Only the columns that the spec asks for are read. Arrays are in the order
of the index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pseudoris.files.location import RunLocation
from pseudoris.interchange.dataset.image_reader import ImageBytes, ShardImages
from pseudoris.interchange.dataset.sample_spec import SCORES, SampleSpec
from pseudoris.interchange.dataset.shard_index import (
    Int64Array,
    ShardIndex,
    index_of,
    numbered,
    target_names,
    with_share_of_none,
)
from pseudoris.interchange.dataset.snapshot import ShardParts, Snapshot
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.threads import map_in_threads
from pseudoris.primitives.uris import place
from pseudoris.schemas.keep_rule import is_lone, lone_draws
from pseudoris.schemas.run_records import RunHeader
from pseudoris.schemas.shard import SOURCE_MODEL
from pseudoris.schemas.tables import EXPRESSIONS, IMAGES, MASKS
from pseudoris.store.exclusion_rules import ExclusionMatcher, beyond, planned_rules
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.held_out_pictures import TRAIN, unknown_split
from pseudoris.store.tables.judged_expressions import floats_of
from pseudoris.store.tables.open_run import rows_by_id
from pseudoris.store.tables.parts import read_selected
from pseudoris.store.tables.proven_rows import prove_masks

WEIGHT_COLUMNS: Final = ("source", "kept", "distinctiveness", "correctness", "count", "weight")
# A weight of 1 becomes this integer, so weights have steps as fine as the rounding of the column `weight`.
FULL_WEIGHT: Final = 2**20


def draw_weights(spec: SampleSpec, candidates: pa.Table, masks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the weight of each candidate among those of its mask, (E,) int64; 0 for one that is never drawn.

    With `draw="distinct"` a weight is 0 or 1; with `pseudo_ris` the number of the captioner's draws that may be drawn
    again; with `weighted` the column `weight` in units of 1 / `FULL_WEIGHT`.

    Args:
        spec: Which candidates, and how they are drawn.
        candidates: All candidates of some masks that pass the other conditions of `spec.where`, `WEIGHT_COLUMNS`.
        masks: (E,), a number from 0 for the mask of each.

    Source: the loader of the Pseudo-RIS authors (method page, section 5).
    """
    distinctiveness, correctness = (floats_of(candidates[name]) for name in ("distinctiveness", "correctness"))
    # Expressions that were not sampled, such as a human's, have a count of 0, but count once here.
    counts = np.maximum(candidates["count"].to_numpy().astype(np.int64), 1)
    # Expressions pass above tau, or without a distinctiveness. If tau is None, those pass that the run kept, or all.
    if spec.where.tau is not None:
        is_passing = ~(distinctiveness <= spec.where.tau)
    elif spec.where.is_kept_only:
        is_passing = np.array(candidates["kept"].to_numpy(), np.bool_)
    else:
        is_passing = np.ones(len(distinctiveness), np.bool_)
    if spec.draw == "pseudo_ris":
        num_passing = np.bincount(masks, weights=is_passing)
        is_passing |= num_passing[masks] == 0
    most = counts.copy()
    is_from_model = pc.equal(candidates["source"], SOURCE_MODEL).to_numpy()
    rows = np.flatnonzero(is_lone(distinctiveness) & is_from_model)
    most[rows] = lone_draws(spec.lone_masks, masks=masks[rows], correctness=correctness[rows], counts=counts[rows])
    units = most if spec.draw == "pseudo_ris" else np.minimum(most, 1)
    if spec.draw == "weighted":
        units = units * np.rint(floats_of(candidates["weight"]) * FULL_WEIGHT).astype(np.int64)
    return np.where(is_passing, units, 0)


_SIZE_COLUMNS: Final = ("image_id", "height", "width")
_PROVEN: Final = ("segmentation", "area_px", "box_xyxy_px")
# If `SampleSpec.is_judged_by_mask`, the index's expressions have the result of `draw_weights` in this column.
_WEIGHT = "draw_weight"


@dataclass(frozen=True, slots=True)
class ShardContent:
    """What samples are made of; the arrays run along the masks, or the expressions, of the shard's index.

    Attributes:
        first_targets: (M+1,) int64, where the encodings of each begin; None if each is one mask.
        counts: COCO run-length encodings, (M,), or as `first_targets` says; empty if masks were not requested.
        rle_sizes: (M, 2) int64, height and width.
        boxes_xyxy_px: (M, 4) int64.
        texts: (E,).
        sources: (E,).
        scores: By name, (E,) float32.
        draw_weights: (E,) int64, at least 1, see `draw_weights`; None if all candidates are equally likely.
        images: Encoded images by position in the index; None if they were not requested.
    """

    index: ShardIndex
    first_targets: Int64Array | None = None
    counts: Sequence[str] = ()
    rle_sizes: Int64Array = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    boxes_xyxy_px: Int64Array = field(default_factory=lambda: np.zeros((0, 4), np.int64))
    texts: Sequence[str] = ()
    sources: Sequence[str] = ()
    scores: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    draw_weights: Int64Array | None = None
    images: ShardImages | None = None

    def counts_of(self, mask: int) -> Sequence[str]:
        """Return the encodings of one of the M: of each of its masks."""
        if self.first_targets is None:
            return self.counts[mask : mask + 1]
        first, end = self.first_targets[mask : mask + 2].tolist()
        return self.counts[first:end]


def _sizes(index: ShardIndex, images: pa.Table) -> Int64Array:
    """Return height and width of the index's images, (I, 2)."""
    rows = _rows_of(index.image_ids, images, "image_id", index.parts)
    return np.stack([rows[name].to_numpy().astype(np.int64) for name in ("height", "width")], axis=1)


def _rows_of(ids: Sequence[str], table: pa.Table, key: str, parts: ShardParts) -> pa.Table:
    return rows_by_id(pa.array(ids, pa.string()), table, key, where=f"shard {parts.shard}")


def _content(
    index: ShardIndex, masks: pa.Table | None, images: ShardImages | None, image_sizes: Int64Array | None
) -> ShardContent:
    table = index.expressions
    is_shown = "source" in table.column_names
    content = ShardContent(
        index,
        texts=table["text"].to_pylist() if is_shown else (),
        sources=table["source"].to_pylist() if is_shown else (),
        scores={name: table[name].to_numpy().astype(np.float32) for name in SCORES if name in table.column_names},
        draw_weights=table[_WEIGHT].to_numpy() if _WEIGHT in table.column_names else None,
        images=images,
    )
    if masks is None:
        return content
    ids = index.mask_ids if index.targets is None else [each for targets in index.targets for each in targets]
    rows = _rows_of(ids, masks, "mask_id", index.parts).combine_chunks()
    if "segmentation" in rows.column_names:
        segmentation = rows["segmentation"].combine_chunks()
        counts = pc.struct_field(segmentation, "counts").to_pylist()
        content = replace(content, counts=counts, rle_sizes=_fixed(pc.struct_field(segmentation, "size"), 2))
    if "box_xyxy_px" in rows.column_names:
        content = replace(content, boxes_xyxy_px=_fixed(rows["box_xyxy_px"], 4))
    return content if index.targets is None or image_sizes is None else _joined(content, image_sizes)


def _joined(content: ShardContent, image_sizes: Int64Array) -> ShardContent:
    """Return the content with one size and one box for all masks of each sample; sizes of none are their image's."""
    index, sizes, boxes = content.index, content.rle_sizes, content.boxes_xyxy_px
    first_targets = np.concatenate(([0], np.cumsum(index.num_targets())))
    if len(content.counts):
        sizes = np.repeat(image_sizes, np.diff(index.first_masks), axis=0)
        is_some = np.diff(first_targets) > 0
        sizes[is_some] = content.rle_sizes[first_targets[:-1][is_some]]
    if len(content.boxes_xyxy_px):
        boxes = np.zeros((index.num_masks, 4), np.int64)
        for at, (first, end) in enumerate(pairwise(first_targets.tolist())):
            own = content.boxes_xyxy_px[first:end]
            if len(own):
                boxes[at] = (*own[:, :2].min(0), *own[:, 2:].max(0))
    return replace(content, first_targets=first_targets, rle_sizes=sizes, boxes_xyxy_px=boxes)


def _fixed(lists: pa.ChunkedArray | pa.Array, width: int) -> Int64Array:
    flat = pc.list_flatten(lists)
    values: Int64Array = flat.to_numpy(zero_copy_only=False).astype(np.int64).reshape(-1, width)
    return values


# This many threads count samples, because each reads a few columns of a shard: in a bucket that is mostly waiting.
_COUNTERS: Final = 8


@dataclass(frozen=True, slots=True)
class DatasetRun:
    """What every dataset of a run is built on. It can be pickled and sent to loader workers.

    Attributes:
        header: The header when the run was opened, extensions of its plan included.
        snapshot: Which commits are read.
        spec: What of them.
        images: How its images are read; None if no image is requested.
        excluded: The images to leave out; None for none.
    """

    location: RunLocation
    header: RunHeader
    snapshot: Snapshot
    spec: SampleSpec
    images: ImageBytes | None
    excluded: ExclusionMatcher | None

    @classmethod
    def open(
        cls,
        run: str | Path | RunLocation,
        spec: SampleSpec,
        snapshot: Snapshot | None = None,
        *,
        endpoint_url: str | None = None,
        is_random_access: bool = False,
    ) -> Self:
        """Open a run; the arguments are those of `RisDataset` and `ImageBytes`."""
        location = run if isinstance(run, RunLocation) else RunLocation.open(place(run, "run"), endpoint_url)
        header = require_header(location)
        chosen = Snapshot.shared(location) if snapshot is None else snapshot
        images = None
        if "image" in spec.parts:
            images = ImageBytes(
                location, header, source=spec.source, endpoint_url=endpoint_url, is_random_access=is_random_access
            )
        # Rules that the run was planned with are left out, because their images are not in the run.
        left = beyond(spec.exclusions, planned_rules(header))
        if looks := [rule.name for rule in left if rule.kind == "phash"]:
            raise ConfigError(
                f"exclude: {looks[0]} has perceptual hashes, but a dataset compares names and sha256 alone. Use "
                "`pseudoris export --exclude` or `pseudoris annotate --exclude`, or give a table with sha256 alone."
            )
        opened = cls(location, header, chosen, spec, images, ExclusionMatcher(left) if left else None)
        if header.splits is not None and opened.split not in (None, *header.splits.images):
            raise unknown_split(location, header.splits, str(opened.split), "give split=")
        for name, noun in opened.lacking().items():
            raise ConfigError(
                f"{name}={getattr(spec, name)}, but the run at {location.root} has no expression of {noun} that passes "
                f"the filter. Leave {name} out, or compose such expressions (docs/guides/composing.md)."
            )
        return opened

    @property
    def split(self) -> str | None:
        """The split that is read; None for all."""
        by_default = None if self.header.splits is None else TRAIN
        return {None: by_default, "all": None}.get(self.spec.split, self.spec.split)

    def lacking(self) -> dict[str, str]:
        """Return which of `groups` and `none` the spec asks for in vain, each with what it needs; reads until found."""
        spec = self.spec
        wanted = {"groups": "several masks"} if spec.groups else {}
        wanted |= {"none": "no mask"} if spec.none else {}
        for row in range(len(self.snapshot)):
            if not wanted:
                break
            # All no-target expressions count here: the share `spec.none` of them may be empty in a single shard.
            num_targets = self._read_index(self.snapshot.parts(row), ()).num_targets()
            is_found = {"groups": (num_targets > 1).any(), "none": (num_targets == 0).any()}
            wanted = {name: noun for name, noun in wanted.items() if not is_found[name]}
        return wanted

    def index(self, row: int, *, with_sizes: bool = True) -> ShardIndex:
        """Return the index of the shard in a row of the snapshot: ids alone, and the images' sizes.

        A part that is missing, damaged or of another version of the package is an error, as of `content`.
        """
        parts = self.snapshot.parts(row)
        index, _ = self._indexed(parts, (), [])
        if self.images is None or not with_sizes or not index.num_masks:
            return index
        return replace(index, image_sizes_px=_sizes(index, self._read(parts, IMAGES, _SIZE_COLUMNS)))

    def content(self, row: int) -> ShardContent:
        """Return all requested parts of the shard in a row of the snapshot."""
        parts, spec = self.snapshot.parts(row), self.spec
        columns = (*(("text", "source") if spec.has_expressions else ()), *(SCORES if "scores" in spec.parts else ()))
        of_masks = {"mask": "segmentation", "box": "box_xyxy_px"}
        index, masks = self._indexed(parts, columns, [of_masks[part] for part in of_masks if part in spec.parts])
        if not index.num_masks:
            return ShardContent(index)
        images, sizes = None, None
        if self.images is not None:
            table = self._read(parts, IMAGES, self.images.columns)
            sizes = _sizes(index, table)
            index = replace(index, image_sizes_px=sizes)
            images = self.images.of_shard(parts.shard, _rows_of(index.image_ids, table, "image_id", parts))
        elif index.targets is not None:
            sizes = _sizes(index, self._read(parts, IMAGES, _SIZE_COLUMNS))
        return _content(index, masks, images, sizes)

    def _indexed(
        self, parts: ShardParts, columns: Sequence[str], of_masks: Sequence[str]
    ) -> tuple[ShardIndex, pa.Table | None]:
        """Return the index with columns of the expressions, and the masks with columns of theirs, if they are read."""
        index, has_bounds = self._read_index(parts, columns), self.spec.where.mask_rows() is not None
        if not index.num_masks or not (of_masks or has_bounds):
            return with_share_of_none(index, self.spec), None
        masks = self._read(parts, MASKS, ("mask_id", *(_PROVEN if of_masks else ())))
        if of_masks:
            prove_masks(masks, None, where=f"shard {parts.shard} of {self.location.root}")
            masks = masks.select(["mask_id", *of_masks])
        if has_bounds:
            known, targets = set(masks["mask_id"].to_pylist()), index.targets or [[each] for each in index.mask_ids]
            kept = np.fromiter(map(known.issuperset, targets), np.bool_, index.num_masks)
            of_row = np.repeat(kept, np.diff(index.first_rows))
            index = index_of(parts, index.expressions.filter(pa.array(of_row)), self.spec)
        return with_share_of_none(index, self.spec), masks

    def _read_index(self, parts: ShardParts, columns: Sequence[str]) -> ShardIndex:
        where, is_judged_by_mask = self.spec.where, self.spec.is_judged_by_mask
        is_counting_tokens = where.max_clip_tokens is not None
        wanted = dict.fromkeys(("image_id", "target_mask_ids", *columns, *(("text",) if is_counting_tokens else ())))
        read = dict.fromkeys((*wanted, *(WEIGHT_COLUMNS if is_judged_by_mask else ())))
        rows = (where.candidate_rows if is_judged_by_mask else where.expression_rows)(self.split)
        table = read_selected(self.location, EXPRESSIONS, parts.names[EXPRESSIONS], list(read), rows)
        num_targets, spec = pc.list_value_length(table["target_mask_ids"]), self.spec
        is_served = pc.equal(num_targets, 1)
        if spec.groups:
            is_served = pc.or_(is_served, pc.greater(num_targets, 1))
        table = table.filter(pc.or_(is_served, pc.equal(num_targets, 0)) if spec.none else is_served)
        if self.excluded is not None and table.num_rows:
            images = self._read(parts, IMAGES, ("image_id", "key", "sha256", "picture_sha256")).to_pylist()
            named = [(row.pop("image_id"), row) for row in images]
            ids = [image_id for image_id, row in named if self.excluded.of_recorded(**row)]
            table = table.filter(pc.invert(pc.is_in(table["image_id"], value_set=pa.array(ids, pa.string()))))
        fits = where.fits_tokens(table["text"]) if is_counting_tokens else None
        table = table if fits is None else table.filter(fits)
        if is_judged_by_mask:
            of_mask, _ = numbered(target_names(table, self.spec))
            weights = pa.array(draw_weights(self.spec, table, of_mask))
            table = table.select(list(wanted)).append_column(_WEIGHT, weights).filter(pc.greater(weights, 0))
        return index_of(parts, table, self.spec)

    def _read(self, parts: ShardParts, table: str, columns: Sequence[str]) -> pa.Table:
        keep = self.spec.where.mask_rows() if table == MASKS else None
        return read_selected(self.location, table, parts.names[table], columns, keep)

    def nothing_passes(self) -> ConfigError:
        """Return the error for a snapshot of which the filter keeps nothing."""
        later = ", or wait until more shards are committed" if len(self.snapshot) < self.header.num_shards else ""
        of = f" is of split {self.split!r} and" if self.split is not None else ""
        return ConfigError(
            f"No expression of the run at {self.location.root}{of} passes the filter {self.spec.where.as_json()}. "
            f"Loosen it{later}."
        )

    def count_samples(self) -> Int64Array:
        """Return the samples of every shard of the snapshot, (S,); reads the columns that the filter asks for."""
        rows = range(len(self.snapshot))
        counts = map_in_threads(lambda row: self.index(row, with_sizes=False).num_masks, rows, _COUNTERS)
        return np.fromiter(counts, np.int64, len(rows))


def served_by(location: RunLocation, spec: SampleSpec, snapshot: Snapshot | None) -> SampleSpec:
    """Return a spec without `groups` and `none` if the run has no such expressions, where `open` refuses it."""
    if spec.is_one_mask_each:
        return spec
    plain = replace(spec, groups=False, none=0.0)
    opened = DatasetRun.open(location, replace(plain, parts=("text",)), snapshot)
    lacking = replace(opened, spec=spec).lacking()
    return replace(spec, **{name: getattr(plain, name) for name in lacking})
