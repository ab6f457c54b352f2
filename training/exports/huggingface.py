"""A folder that `datasets.load_dataset(folder)` opens: Parquet files with image features, and a dataset card.

    DEST/README.md                     the card; its head says which files are which split
    DEST/data/train-00000.parquet      a row an image: the image, its masks as images, their expressions

The files state their features themselves, so the datasets package is not needed to write them. They are read back a
row group at a time.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
import yaml

from pseudoris.images.pixels import upright_size
from pseudoris.schemas.errors import ConfigError, ImageError
from pseudoris.schemas.run_records import RunHeader
from pseudoris.store.location import RunLocation
from pseudoris.store.tables.annotations import AnnotatedImage
from pseudoris.store.tables.parquet_files import open_parquet, open_writer
from pseudoris.training.exports.destination import claim_destination, mark_whole, nothing_left
from pseudoris.training.exports.image_files import ImageFile, box_xywh, counts_of_png, iter_image_files, mask_png
from pseudoris.training.exports.output_files import Fingerprint, broken, check_texts, new_file
from pseudoris.training.exports.protocol import CHECKING, ExportReport, ExportRequest, OnProgress
from pseudoris.training.exports.selected_rows import TextRule

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

    summary = "a folder for datasets.load_dataset: images and masks as image features, and a card"
    reads = frozenset({"max_tokens", "split", "target_bytes"})
    default_max_tokens: int | None = None

    def write(self, request: ExportRequest, on_progress: OnProgress) -> ExportReport:
        """Write one file after the other and then the card; read every row back."""
        split = request.options.split
        if not _SPLIT.fullmatch(split):
            raise ConfigError(
                f"--split {split!r}: `datasets` allows only letters, digits and _ in the name of a split."
            )
        claim_destination(request, NAME, (DATA_FOLDER,))
        writer = _Writer(request)
        paths = list(writer.files(on_progress))
        check_rows(request.destination, paths, due=writer.written, on_progress=on_progress)
        rows = {
            split: writer.num_images,
            "masks": writer.written.num_masks,
            "expressions": writer.written.num_texts,
        }
        text = card(request, split, rows, writer.dropped).encode()
        request.destination.replace(CARD_NAME, text)
        mark_whole(request, NAME, {"rows": rows, "dropped": dict(writer.dropped)})
        return ExportReport(
            rows=rows,
            files={split: len(paths)},
            size_bytes=len(text) + sum(request.destination.size(path) or 0 for path in paths),
            dropped=writer.dropped,
            notes=(f"Fill in the licence of the images in {CARD_NAME} before you publish.",),
            checked=(
                "every image has the size of its masks; every expression and every mask's pixels equal the run's",
                "image ids are unique in their file; no expression is empty",
            ),
        )


def arrow_schema() -> pa.Schema:
    """Return the schema of the files; its metadata gives `datasets` the features."""
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


class _Writer:
    """Rows on their way into files."""

    def __init__(self, request: ExportRequest) -> None:
        self._request = request
        self._schema = arrow_schema()
        self.dropped: Counter[str] = Counter()
        self.written = Fingerprint()
        self.num_images = 0

    def files(self, on_progress: OnProgress) -> Iterator[str]:
        """Write the files; each is whole and in place when its path is yielded."""
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
        for image, image_file in iter_image_files(self._request, self.dropped, rule, on_progress):
            row = self._row(image, image_file)
            self.num_images += 1
            yield row, len(image_file.data) + sum(len(mask["mask"]["bytes"]) for mask in row["masks"])

    def _row(self, image: AnnotatedImage, image_file: ImageFile) -> dict[str, Any]:
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
            "image": {"bytes": image_file.data, "path": image_file.name},
            "masks": masks,
        }


def check_rows(destination: RunLocation, paths: Sequence[str], *, due: Fingerprint, on_progress: OnProgress) -> None:
    """Read every row: images by their headers, masks by their pixels.

    Raises:
        TransientError: Something is not as it was written; the message says which file and mask.
    """
    found = Fingerprint()
    for path in paths:
        image_ids = set[str]()
        for row in _rows(destination, path):
            if row["image_id"] in image_ids:
                raise broken(destination.uri(path), f"image {row['image_id']} has two rows")
            image_ids.add(row["image_id"])
            _add_row(found, row, destination.uri(path))
        on_progress(found.num_masks, due.num_masks, CHECKING)
    due.check_equals(found, destination.root)


def _rows(destination: RunLocation, path: str) -> Iterator[dict[str, Any]]:
    where = destination.uri(path)
    with destination.open_input(path) as stream:
        parquet = open_parquet(stream, where)
        for group in range(parquet.num_row_groups):
            try:
                table = parquet.read_row_group(group, use_threads=False)
            except (pa.ArrowException, OSError) as error:
                raise broken(where, str(error)) from error
            # A row at a time: as Python values a group's images are there once more.
            for batch in table.to_batches(max_chunksize=1):
                yield from batch.to_pylist()


def _add_row(found: Fingerprint, row: Mapping[str, Any], where: str) -> None:
    size = (row["height"], row["width"])
    try:
        image_size = upright_size(row["image"]["bytes"])
    except ImageError as error:
        raise broken(where, f"image {row['image_id']} cannot be read ({error})") from error
    if image_size != size:
        raise broken(
            where, f"image {row['image_id']} has the size {image_size}, but its row says {size} (height, width)"
        )
    for mask in row["masks"]:
        place = f"{where}, mask {mask['mask_id']}"
        mask_size, counts = counts_of_png(mask["mask"]["bytes"], place)
        if mask_size != size:
            raise broken(place, f"it has the size {mask_size}, its image {size} (height, width)")
        texts = check_texts(mask["expressions"], place)
        if not texts or len(texts) != len(mask["distinctiveness"]):
            raise broken(place, "it has no expression, or not one score per expression")
        found.add(row["image_id"], size, counts, texts)


# As the hub names sizes; there is no category above it.
_SIZES: Final = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
)
_ABOVE: Final = "100M<n<1B"

_TITLE: Final = {
    "models": "Referring expressions for masks, made by models",
    "people": "Referring expressions for masks, written by people",
}
_INTRO: Final = {
    "models": "No human has seen them: pseudoris made them after Pseudo-RIS (Yu, Seo and Son, ECCV 2024). Of the "
    "captions that a model wrote for each mask, this data set holds those whose distinctiveness, judged by another "
    "model, is above a threshold.",
    "people": "They come from a data set of human annotation. pseudoris converted it.",
}
_MAKING: Final = """\
## How it was made

| stage | engine | weights (sha256) |
| --- | --- | --- |
{stages}

An expression is kept if its distinctiveness is above {tau}, or if its mask is alone in its image.

## What to know before use

- Expressions repeat what the captioner has learnt, including its mistakes and its prejudices about people.
- A mask may be a part of an object, or of several; an expression may fit another object that no mask shows.
- Distinctiveness compares only the masks of the image, and a model judges it.

"""
_TEXT: Final = """\
# {title}

Each row is an image with its masks, and each mask has referring expressions: short phrases that fit it and nothing \
else in the image. {intro}

```python
from datasets import load_dataset

rows = load_dataset("path/to/this/folder", split="{split}")
row = rows[0]
row["image"]  # PIL image, upright
for mask in row["masks"]:
    mask["mask"]  # PIL image of the same size, 255 inside and 0 outside
    mask["expressions"]  # list of texts
```

| | |
| --- | --- |
{counts}

## Fields

| field | meaning |
| --- | --- |
| `image_id` | first 64 bits of the sha256 of the key |
| `key` | percent-encoded path of the image in its source |
| `height`, `width` | of the upright image, in pixels |
| `image` | the image; encoded again as JPEG if readers differ about it (EXIF orientation, transparency, 16 bits) |
| `masks[].mask_id` | image id and index in the proposer's order |
| `masks[].mask` | 8-bit PNG of the image's size, 255 inside and 0 outside |
| `masks[].bbox` | tight box [x, y, width, height], in pixels |
| `masks[].area` | number of pixels |
| `masks[].predicted_iou`, `masks[].stability_score` | the proposer's scores; null if a prior gave the mask |
| `masks[].expressions` | the kept expressions |
| `masks[].distinctiveness` | one score per expression; null if the mask is alone in its image |

{making}## Licence

To be filled in by the publisher: the licence of the images, and whether the licences of the models or of the human \
annotation allow the use that you offer. The head of this file says `unknown` until then.
"""


def card(request: ExportRequest, split: str, rows: Mapping[str, int], dropped: Mapping[str, int]) -> str:
    """Return the text of README.md.

    It does not name where the images came from: a path or a bucket's name is private.

    Args:
        request: The request of the export.
        split: Name of the one split; `rows` has its number of images by this name.
        rows: Counts by name.
        dropped: Counts of what was left out, by reason.
    """
    counts = {"images": rows[split], **{name: number for name, number in rows.items() if name != split}}
    if num_quarantined := sum(receipt.counts.quarantined for receipt in request.receipts):
        counts["quarantined images"] = num_quarantined
    counts |= {f"left out: {reason}": number for reason, number in dropped.items()}
    header = request.header
    makers = "people" if header.origin == "import" else "models"
    making = _MAKING.format(stages="\n".join(_stages(header)), tau=header.config.filtering.tau)
    text = _TEXT.format(
        title=_TITLE[makers],
        intro=_INTRO[makers],
        split=split,
        counts="\n".join(f"| {name} | {number:,} |" for name, number in counts.items()),
        making=making if makers == "models" else "",
    )
    meta = head(split, rows[split], title=_TITLE[makers])
    return f"---\n{yaml.safe_dump(meta, sort_keys=False)}---\n\n{text}"


def head(split: str, num_images: int, *, title: str) -> dict[str, Any]:
    """Return the part of the card that the hub and `load_dataset` read."""
    return {
        "pretty_name": title,
        "license": "unknown",
        "language": ["en"],
        "task_categories": ["image-segmentation"],
        "tags": ["referring-image-segmentation", "synthetic", "pseudoris"],
        "size_categories": [next((name for limit, name in _SIZES if num_images < limit), _ABOVE)],
        "configs": [
            {"config_name": "default", "data_files": [{"split": split, "path": f"data/{split}-*.parquet"}]},
        ],
    }


def _stages(header: RunHeader) -> list[str]:
    config = header.config
    engines = {"propose": config.masks.engine, "caption": config.captions.engine, "filter": config.filtering.engine}
    weights = header.identity.weights
    return [f"| {stage} | {engine} | {weights.get(stage, 'none')} |" for stage, engine in engines.items()]
