"""Chooses which proposals are objects (`masks.prior`): by rules, by a table or by a detector.

`generator.py` and `ready_masks.py` build one prior for a process. A prior must return proposals in the generator's
order, because ids and the tables' bytes depend on it.
Source: method page, section 1; the authors' instances come from CutLER, score > 0.5.

A table of instances (Parquet or COCO JSON, `masks.prior.kind=table`) is made with CutLER, with another detector, or by
hand; docs/guides/masks.md has its columns and keys. A run's own masks table is one too. Rows are numbered from 0 in
the file's order, and a mask's `prior` names that number.

An image is found by its `image_id` or its key (percent-encoded or plain), else by file name, if one path ends in the
other (`train/1.jpg` and `1.jpg`) and only one name in the table does so. Masks must have the upright image's size, and
are checked before pycocotools sees them: a damaged code would end the process.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import nn

from pseudoris.files.filesystems import open_location
from pseudoris.images.parquet_pages import read_columns
from pseudoris.primitives import rle
from pseudoris.primitives.errors import ConfigError, ImageError
from pseudoris.primitives.rle import compressed_counts, is_coordinate, unwrapped
from pseudoris.primitives.untrusted import parse_json
from pseudoris.schemas.config import MasksConfig, PriorConfig, RunConfig
from pseudoris.schemas.shard import ShardImage
from pseudoris.workers.checkpoints.tensor_files import read_state
from pseudoris.workers.device import to_device, to_host
from pseudoris.workers.masks.proposals import Kept, Proposals, Reduction, num_too_small, reduce_proposals

logger = logging.getLogger(__name__)

_PARQUET_MAGIC = b"PAR1"
_NAME_COLUMNS = ("image_id", "key", "file_name")
_MASK_COLUMNS = ("segmentation", "box_xyxy_px")
# The function returns the RLE string of a row, by the row's number and the image's (H, W).
EncodeRow = Callable[[int, tuple[int, int]], str]


@dataclass(frozen=True)
class Instances:
    """The instances of one image, as COCO compressed RLE; an empty one is allowed and matches nothing.

    A mask's `prior` names the number in `rows`: the row in the table, or the number of the detection.
    """

    counts: tuple[str, ...]
    rows: tuple[int, ...]


def read_instance_table(path: str, min_score: float) -> InstanceTable:
    """Return the instances of a Parquet or COCO JSON file whose score is at least `min_score`."""
    where = f"prior.path={path}"
    try:
        with open_location(path) as file:
            data = file.read()
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"{where} cannot be read: {error}") from error
    read = _from_parquet if data.startswith(_PARQUET_MAGIC) else _from_coco_json
    return read(data, where, min_score)


def _from_parquet(data: bytes, where: str, min_score: float) -> InstanceTable:
    table = read_columns(data, (*_NAME_COLUMNS, *_MASK_COLUMNS, "score"), where=where)
    repeated = next((name for name in table.column_names if table.column_names.count(name) > 1), None)
    if repeated:
        raise ConfigError(f"{where} has the column {repeated} more than once: keep one of them")
    for wanted in (_NAME_COLUMNS, _MASK_COLUMNS):
        if not set(wanted) & set(table.column_names):
            raise ConfigError(f"{where} has none of the columns {', '.join(wanted)}: it needs one of them")
    name_column = next(name for name in _NAME_COLUMNS if name in table.column_names)
    rows = pa.array(range(table.num_rows), pa.int64())
    if "score" in table.column_names:
        try:
            scores = pc.fill_null(table["score"].cast(pa.float64()), 1.0)
        except pa.ArrowException as error:
            raise ConfigError(f"{where}: score is {table['score'].type}, but must be a number") from error
        rows = rows.filter(pc.greater_equal(scores, min_score))
    try:
        listed = table[name_column].cast(pa.string())
        names = listed.take(rows).to_pylist()
    except pa.ArrowException as error:
        raise ConfigError(f"{where}: {name_column} is {table[name_column].type}, but must be text") from error
    if None in names:
        row = rows[names.index(None)].as_py()
        raise ConfigError(f"{where}: row {row} has no {name_column}; every row must name its image")

    def encode_row(row: int, size: tuple[int, int]) -> str:
        values = {name: table[name][row].as_py() for name in _MASK_COLUMNS if name in table.column_names}
        return encode_instance(values.get("segmentation"), values.get("box_xyxy_px"), size, where=f"{where}: row {row}")

    named = zip(rows.to_pylist(), names, strict=True)
    return InstanceTable(named, encode_row, where=where, listed=listed.unique().drop_null().to_pylist())


def _from_coco_json(data: bytes, where: str, min_score: float) -> InstanceTable:
    """Return the instances of a COCO JSON document whose score is at least `min_score`."""
    try:
        document = parse_json(data)
    except ValueError as error:
        raise ConfigError(f"{where} is neither Parquet nor JSON: {error}") from error
    if not isinstance(document, dict) or not {"images", "annotations"} <= document.keys():
        raise ConfigError(
            f"{where}: COCO JSON is an object with images and annotations, got "
            f"{type(document).__name__}; a bare list of results does not name the files of its images"
        )
    for name in ("images", "annotations"):
        if not isinstance(document[name], list):
            raise ConfigError(f"{where}: {name} is a list, got {type(document[name]).__name__}")
    annotations = document["annotations"]
    try:
        images = {entry["id"]: {**entry, "file_name": str(entry["file_name"])} for entry in document["images"]}
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{where}: every entry of images needs an id and a file_name ({error})") from error
    names = list(_names(annotations, images, where, min_score))

    def encode_row(row: int, size: tuple[int, int]) -> str:
        of_row, annotation = f"{where}: annotation {row}", annotations[row]
        image, box = images[annotation["image_id"]], annotation.get("bbox")
        if box is not None:
            if not _is_box(box):
                raise ConfigError(f"{of_row}: bbox is {box!r}, but must be four numbers [x, y, w, h]")
            box = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
        of_image = [image.get("height"), image.get("width")]
        return encode_instance(annotation.get("segmentation"), box, size, where=of_row, image_size=of_image)

    return InstanceTable(names, encode_row, where=where, listed=[each["file_name"] for each in images.values()])


def _names(
    annotations: list[Any], images: Mapping[int | str, Mapping[str, Any]], where: str, min_score: float
) -> Iterator[tuple[int, str]]:
    for row, annotation in enumerate(annotations):
        image = annotation.get("image_id") if isinstance(annotation, dict) else None
        if not isinstance(image, int | str) or image not in images:
            raise ConfigError(f"{where}: annotation {row} has no image_id that images lists, got {image!r}")
        score = annotation.get("score", 1.0)
        if not isinstance(score, int | float):
            raise ConfigError(f"{where}: annotation {row} has score {score!r}, which must be a number")
        if score >= min_score and not annotation.get("iscrowd"):
            yield row, images[image]["file_name"]


def encode_box(box_xyxy_px: Sequence[float], size: tuple[int, int]) -> str:
    """Return the RLE of an image's (H, W) pixels whose centres are in the box; empty if there are none."""
    height, width = size
    x0, y0, x1, y1 = (int(np.ceil(edge - 0.5)) for edge in np.clip(box_xyxy_px, 0, [width, height, width, height]))
    mask = np.zeros(size, np.bool_)
    mask[y0:y1, x0:x1] = True
    return rle.canonical_counts(mask)


def encode_instance(
    segmentation: Any, box: Any, size: tuple[int, int], *, where: str, image_size: list[Any] | None = None
) -> str:
    """Return the checked RLE of a user's instance in an upright image (H, W).

    It is made from the segmentation, else from the box (x0, y0, x1, y1), whose x1 and y1 are exclusive. Polygons count
    only where the file states an `image_size`. `where` names file and row in errors: a ConfigError if it has neither
    or is malformed, an ImageError if the segmentation has another size.
    """
    segmentation = unwrapped(segmentation)
    is_rle = isinstance(segmentation, Mapping)
    if not segmentation or (is_rle and segmentation.get("counts") is None):
        if not _is_box(box):
            raise ConfigError(f"{where} has neither a segmentation nor a box of four numbers, got {box!r}")
        return encode_box(box, size)
    if not is_rle and image_size is None:
        raise ConfigError(f"{where}: segmentation is a {type(segmentation).__name__}, but needs size and counts")
    claimed: Any = segmentation.get("size") if is_rle else image_size
    is_size = isinstance(claimed, list) and all(isinstance(side, int) and 0 <= side < 2**31 for side in claimed)
    if image_size is not None and not (is_size and len(claimed) == 2):
        raise ConfigError(f"{where}: the segmentation needs a size [height, width], got {claimed!r}")
    # Sizes are compared before anything is drawn, because drawing takes memory for the stated size.
    if claimed != list(size):
        raise ImageError(
            "prior_mismatch",
            f"{where} is a mask of size {claimed}, the upright image has {list(size)}: "
            "make the table from images turned upright by their EXIF orientation, at full size",
        )
    try:
        counts = compressed_counts(segmentation, size)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
    if counts is None or not rle.is_valid(counts, size):
        raise ConfigError(f"{where}: counts is not a COCO compressed RLE of {size[0]} x {size[1]} pixels")
    return counts


def _is_box(box: Any) -> bool:
    return isinstance(box, list | tuple) and len(box) == 4 and all(map(is_coordinate, box))


class InstanceTable:
    """The instances of a table, by image."""

    def __init__(
        self, names: Iterable[tuple[int, str]], encode_row: EncodeRow, *, where: str, listed: Iterable[str] = ()
    ) -> None:
        """Index rows by the id, key or file name of their image; `names` are pairs of a row and it, rows ascending.

        `where` names the file in errors; `listed` all its images, also those without a row: they have no instance.
        """
        self._rows: dict[str, list[int]] = defaultdict(list, {name: [] for name in listed})
        for row, name in names:
            self._rows[name].append(row)
        self._names_by_stem: dict[str, list[str]] = defaultdict(list)
        for name in self._rows:
            self._names_by_stem[_parts(name)[-1]].append(name)
        self._encode_row = encode_row
        self._where = where
        self._has_warned = False

    def instances(self, image_id: str, key: str, size: tuple[int, int]) -> Instances:
        """Return the instances of an image (H, W), by ascending row; an ImageError if they have another size.

        ConfigError if several names of the table fit the image, or a row is malformed.
        """
        found = [name for name in (image_id, key, unquote(key)) if name in self._rows][:1]
        # If no name equals the image's, a name matches if one of the two paths ends with the other path.
        found = found or sorted(
            {
                name
                for parts in (_parts(key), _parts(unquote(key)))
                for name in self._names_by_stem.get(parts[-1], ())
                if all(a == b for a, b in zip(reversed(_parts(name)), reversed(parts), strict=False))
            }
        )
        if len(found) > 1:
            raise ConfigError(
                f"{self._where}: image {key} fits several names: {', '.join(found)}; "
                f"name images by their key or image_id, as the images table does"
            )
        if not found:
            if not self._has_warned:
                logger.warning("image %s has no row in %s, so it gets no mask (logged once)", key, self._where)
                self._has_warned = True
            return Instances((), ())
        rows = tuple(self._rows[found[0]])
        return Instances(tuple(self._encode_row(row, size) for row in rows), rows)


def _parts(name: str) -> tuple[str, ...]:
    # `!` and `\` separate parts too: a tar's member has the key `tar!member`, and Windows tools write `train\1.jpg`.
    return PurePosixPath(name.replace("!", "/").replace("\\", "/")).parts or ("",)


def match_instances(proposals: Proposals, instances: Instances, config: PriorConfig) -> list[Kept]:
    """Return the best proposal of each instance, in the generator's order.

    Among equals the first proposal wins. An instance without overlap with any proposal is dropped, or takes the first
    proposal, as `config.untouched` says. If several instances choose the same proposal, the first of them is its prior;
    with `duplicates=keep` the others follow after all first choices, each with the next `Kept.copy`.
    """
    if not len(proposals) or not instances.counts:
        return []
    measure = rle.shares_inside if config.match == "intersection" else rle.ious
    overlaps = measure(instances.counts, proposals.counts, proposals.size)
    touches = overlaps.max(axis=1) > 0
    best = np.where(touches, overlaps.argmax(axis=1), 0)
    matched = np.flatnonzero(touches | (config.untouched == "first_mask"))
    choices: dict[int, list[int]] = defaultdict(list)
    for instance in matched:
        choices[int(best[instance])].append(instances.rows[instance])
    num_copies = 1 if config.duplicates == "merge" else max(map(len, choices.values()), default=0)
    return [
        Kept(row, f"{config.kind}:{choices[row][copy]}", copy)
        for copy in range(num_copies)
        for row in sorted(choices)
        if copy < len(choices[row])
    ]


_CLASSES_KEY = "roi_heads.box_predictor.cls_score.bias"
# A state dict has one of these keys, which shows its version: v1 has linear layers as box head, v2 convolutions.
_V1_KEY = "roi_heads.box_head.fc6.weight"
_V2_KEY = "roi_heads.box_head.0.0.weight"
# A pixel belongs to a mask at this probability or above. Source: torchvision's Mask R-CNN reference.
_MIN_MASK_PROBABILITY = 0.5


@torch.inference_mode()
def detect_instances(
    detector: nn.Module, pixels: NDArray[np.uint8], *, device: torch.device, min_score: float
) -> Instances:
    """Return the instances of an image (H, W, 3) uint8 RGB that have at least `min_score`, best first.

    `detector` is a torchvision Mask R-CNN in eval mode on `device`. Its classes are ignored.
    """
    found = detector([to_device(pixels, device).permute(2, 0, 1).float() / 255])[0]
    (scores,) = to_host(found["scores"])
    rows = np.flatnonzero(scores >= min_score)
    masks = found["masks"][to_device(rows, device), 0] >= _MIN_MASK_PROBABILITY
    return Instances(tuple(rle.encode(masks)), tuple(rows.tolist()))


def load_detector(path: str) -> nn.Module:
    """Return the Mask R-CNN (ResNet-50 FPN, torchvision's v1 or v2) with the state dict at `path`.

    The version and the number of classes are read from the tensors.
    """
    # torchvision's detection models are imported here, because most runs have no detector.
    from torchvision.models import detection

    try:
        with open_location(path) as file:
            state = read_state(file if "://" in path else Path(path).expanduser(), f"prior.path={path}")
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"prior.path={path} cannot be read as tensors: {error}") from error
    build = detection.maskrcnn_resnet50_fpn_v2 if _V2_KEY in state else detection.maskrcnn_resnet50_fpn
    if _CLASSES_KEY not in state or not {_V1_KEY, _V2_KEY} & state.keys():
        raise ConfigError(
            f"prior.path={path} has not {_CLASSES_KEY} and one of {_V1_KEY} and {_V2_KEY}: give a checkpoint of "
            "torchvision's Mask R-CNN"
        )
    model: nn.Module = build(weights=None, weights_backbone=None, num_classes=len(state[_CLASSES_KEY]))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ConfigError(f"prior.path={path} does not fit torchvision's {build.__name__}: {error}") from error
    if len(state[_CLASSES_KEY]) == 91 and not any(name.endswith("num_batches_tracked") for name in state):
        # torchvision's own v1 of COCO was trained with frozen norms, without an epsilon; its v2 has no frozen norms.
        for norm in (each for each in model.modules() if isinstance(each, nn.BatchNorm2d)):
            norm.eps = 0.0
    return model


# Chooses the proposals that are objects: from the image's id and key, from its upright pixels (H, W, 3) uint8 RGB, and
# from all of its masks, unreduced. Each stands once, unless copies are kept.
InstancePrior = Callable[[ShardImage, NDArray[np.uint8], Proposals], Reduction]


def num_dropped(proposals: Proposals, config: RunConfig) -> int | None:
    """Return `ShardImage.num_too_small` of a run; None where no setting asks for it, or nothing is too small."""
    is_asked = config.composing is not None and config.composing.has_too_small and config.masks.prior.kind == "none"
    return num_too_small(proposals, config.masks.reduction) if is_asked else None


def build_prior(config: MasksConfig, device: torch.device) -> InstancePrior:
    """Return the prior that `masks.prior` names; `none` is the reduction by rules."""
    prior = config.prior
    prior.check_is_set()
    if prior.path is None or prior.kind == "none":
        return lambda image, pixels, proposals: reduce_proposals(proposals, config.reduction)
    if prior.kind == "table":
        table = read_instance_table(prior.path, prior.min_score)
        return lambda image, pixels, proposals: _chosen(
            proposals, table.instances(image.image_id, image.key, proposals.size), prior
        )
    detector = load_detector(prior.path).to(device).eval()
    return lambda image, pixels, proposals: _chosen(
        proposals, detect_instances(detector, pixels, device=device, min_score=prior.min_score), prior
    )


def _chosen(proposals: Proposals, instances: Instances, prior: PriorConfig) -> Reduction:
    kept = match_instances(proposals, instances, prior)
    return Reduction(kept, {**proposals.left, "prior": len(kept)})
