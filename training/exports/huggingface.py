"""A folder that `datasets.load_dataset(folder)` opens: Parquet files with image features, and a dataset card.

    DEST/README.md                     the card; its head says which files are which split
    DEST/data/train-00000.parquet      a row an image: the image, its masks as images, their expressions

The files state their features themselves, so that nothing of the datasets package is needed to write them.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa

from schemas.errors import ConfigError
from store.annotations import AnnotatedImage
from store.parquet import open_writer
from training.exports.annotations import TextRule
from training.exports.coco_form import box_xywh
from training.exports.files import new_file
from training.exports.fingerprints import Fingerprint
from training.exports.huggingface_card import card
from training.exports.huggingface_check import check_rows
from training.exports.mask_png import mask_png
from training.exports.pictures import Picture, iter_pictures
from training.exports.protocol import ExportReport, ExportRequest, OnProgress
from training.exports.workspace import finish_place, nothing_left, take_place

NAME: Final = "hf"
DATA_FOLDER: Final = "data"
CARD_NAME: Final = "README.md"
# What one row group, and so a reader of it, holds at once; `datasets` reads a group at a time.
_MAX_GROUP_BYTES: Final = 32 * 2**20
_MAX_GROUP_ROWS: Final = 100
_SPLIT: Final = re.compile(r"[A-Za-z0-9_]+")

_VALUES: Final = {
    "string": pa.string(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float64": pa.float64(),
}
_IMAGE: Final[dict[str, Any]] = {"_type": "Image"}
# A list around a feature is a list of it, in every version of `datasets`; its own word for one has changed twice.
FEATURES: Final[dict[str, Any]] = {
    "image_id": {"dtype": "string", "_type": "Value"},
    "key": {"dtype": "string", "_type": "Value"},
    "height": {"dtype": "int32", "_type": "Value"},
    "width": {"dtype": "int32", "_type": "Value"},
    "image": _IMAGE,
    "masks": [
        {
            "mask_id": {"dtype": "string", "_type": "Value"},
            "mask": _IMAGE,
            "bbox": [{"dtype": "int32", "_type": "Value"}],
            "area": {"dtype": "int64", "_type": "Value"},
            "predicted_iou": {"dtype": "float64", "_type": "Value"},
            "stability_score": {"dtype": "float64", "_type": "Value"},
            "expressions": [{"dtype": "string", "_type": "Value"}],
            "distinctiveness": [{"dtype": "float64", "_type": "Value"}],
        }
    ],
}


class HuggingfaceExport:
    """Files of `target_bytes`; the last may be smaller."""

    summary = "a folder for datasets.load_dataset, images and masks as image features, with a dataset card"
    reads = frozenset({"max_tokens", "split", "target_bytes"})
    default_max_tokens: int | None = None

    def write(self, request: ExportRequest, on_progress: OnProgress) -> ExportReport:
        """Write one file after the other and then the card; read every row back."""
        split = request.options.split
        if not _SPLIT.fullmatch(split):
            raise ConfigError(f"--split {split!r}: datasets takes letters, digits and _ in the name of a split")
        take_place(request, NAME, (DATA_FOLDER,))
        writing = _Writing(request)
        paths = list(writing.files(on_progress))
        check_rows(request.destination, paths, due=writing.written, on_progress=on_progress)
        rows = {
            split: writing.num_images,
            "masks": writing.written.num_masks,
            "expressions": writing.written.num_texts,
        }
        text = card(request, split, rows, writing.dropped).encode()
        request.destination.replace(CARD_NAME, text)
        finish_place(request, NAME, {"rows": rows, "dropped": dict(writing.dropped)})
        return ExportReport(
            rows=rows,
            files={split: len(paths)},
            size_bytes=len(text) + sum(request.destination.size(path) or 0 for path in paths),
            dropped=writing.dropped,
            notes=(f"{CARD_NAME} leaves the licence of the images to you: fill it in before you publish.",),
            checked=(
                "every image has the size of its masks; every mask, pixel by pixel, and every expression is the run's",
                "image ids are unique in their file; no expression is empty",
            ),
        )


def arrow_schema() -> pa.Schema:
    """Return the schema of the files; its metadata tells `datasets` the features."""
    metadata = {"huggingface": json.dumps({"info": {"features": FEATURES}})}
    return pa.schema([(name, _arrow_type(feature)) for name, feature in FEATURES.items()], metadata=metadata)


def _arrow_type(feature: Any) -> pa.DataType:
    if isinstance(feature, list):
        return pa.list_(pa.field("element", _arrow_type(feature[0])))
    if feature == _IMAGE:
        return pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    if feature.get("_type") == "Value":
        return _VALUES[feature["dtype"]]
    return pa.struct([(name, _arrow_type(inner)) for name, inner in feature.items()])


class _Writing:
    """Rows on their way into files."""

    def __init__(self, request: ExportRequest) -> None:
        self._request = request
        self._schema = arrow_schema()
        self.dropped: Counter[str] = Counter()
        self.written = Fingerprint()
        self.num_images = 0

    def files(self, on_progress: OnProgress) -> Iterator[str]:
        """Write the files; each stands, whole, when its path is yielded."""
        groups = self._row_groups(on_progress)
        group = next(groups, None)
        if group is None:
            raise nothing_left(self._request, self.dropped)
        number = 0
        while group is not None:
            path = f"{DATA_FOLDER}/{self._request.options.split}-{number:05d}.parquet"
            with (
                new_file(self._request.destination, path) as local,
                local.open("wb") as sink,
                open_writer(sink, self._schema) as writer,
            ):
                while group is not None and sink.tell() < self._request.target_bytes:
                    writer.write_table(group, row_group_size=group.num_rows)
                    group = next(groups, None)
            yield path
            number += 1

    def _row_groups(self, on_progress: OnProgress) -> Iterator[pa.Table]:
        held: list[dict[str, Any]] = []
        held_bytes = 0
        max_bytes = min(_MAX_GROUP_BYTES, self._request.target_bytes)
        for row, size_bytes in self._rows(on_progress):
            if held and (len(held) >= _MAX_GROUP_ROWS or held_bytes + size_bytes > max_bytes):
                yield pa.Table.from_pylist(held, self._schema)
                held, held_bytes = [], 0
            held.append(row)
            held_bytes += size_bytes
        if held:
            yield pa.Table.from_pylist(held, self._schema)

    def _rows(self, on_progress: OnProgress) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield each row with the bytes of its images."""
        rule = TextRule(self._request.options.max_tokens)
        for image, picture in iter_pictures(self._request, self.dropped, rule, on_progress):
            row = self._row(image, picture)
            self.num_images += 1
            yield row, len(picture.data) + sum(len(mask["mask"]["bytes"]) for mask in row["masks"])

    def _row(self, image: AnnotatedImage, picture: Picture) -> dict[str, Any]:
        masks = []
        for mask in image.masks:
            png, counts = mask_png(mask)
            texts = [expression.text for expression in mask.expressions]
            self.written.add(image.image_id, mask.rle_size, counts, texts)
            masks.append(
                {
                    "mask_id": mask.mask_id,
                    "mask": {"bytes": png, "path": f"{mask.mask_id}.png"},
                    "bbox": box_xywh(mask),
                    "area": mask.area_px,
                    "predicted_iou": mask.predicted_iou,
                    "stability_score": mask.stability_score,
                    "expressions": texts,
                    "distinctiveness": [expression.distinctiveness for expression in mask.expressions],
                }
            )
        return {
            "image_id": image.image_id,
            "key": image.key,
            "height": image.height,
            "width": image.width,
            "image": {"bytes": picture.data, "path": picture.name},
            "masks": masks,
        }
