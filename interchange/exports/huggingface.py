"""Exports a folder that `datasets.load_dataset(folder)` opens: Parquet files with image features, and a dataset card.

    DEST/README.md                     the card; its head says which files are which split
    DEST/data/train-00000.parquet      a row per image: the image, its masks as images, their expressions

Listed in `EXPORTS` for `cli/export`. The files state their features themselves, so the datasets package is not needed
to write them. The card does not say where the images came from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
import yaml

from pseudoris.interchange.exports.croissant import CROISSANT_NAME, used_models
from pseudoris.interchange.exports.export_job import ExportFormat, ExportJob
from pseudoris.interchange.exports.export_options import ExportReport, ExportRequest
from pseudoris.interchange.exports.image_files import CATEGORY, mask_png
from pseudoris.interchange.exports.record import Content, broken
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.templates import markdown_templates
from pseudoris.schemas.run_records import RunHeader
from pseudoris.schemas.shard import SOURCE_COMPOSER, SOURCE_HUMAN, SOURCE_MODEL
from pseudoris.store.tables.kept_clauses import LONE_MASK, NEVER, KeptClause, kept_clauses

_DATA_FOLDER: Final = "data"
_CARD_NAME: Final = "README.md"
# A row group has at most these bytes and rows, because `datasets` holds one row group in memory.
_MAX_GROUP_BYTES: Final = 32 * 2**20
_MAX_GROUP_ROWS: Final = 100
_SPLIT: Final = re.compile(r"[A-Za-z0-9_]+")

_VALUES: Final = {"string": pa.string(), "int32": pa.int32(), "int64": pa.int64(), "float64": pa.float64()}
_IMAGE: Final[dict[str, Any]] = {"_type": "Image"}
_STRING, _INT32, _INT64, _FLOAT64 = ({"dtype": dtype, "_type": "Value"} for dtype in _VALUES)
_OF_IMAGE: Final[dict[str, Any]] = {"key": _STRING, "height": _INT32, "width": _INT32, "image": _IMAGE}
_OF_MASK: Final[dict[str, Any]] = {
    "mask_id": _STRING,
    "mask": _IMAGE,
    "bbox": [_INT32],
    "area": _INT64,
    "predicted_iou": _FLOAT64,
    "stability_score": _FLOAT64,
    "expressions": [_STRING],
    "distinctiveness": [_FLOAT64],
}
# The features by layout; detectors read `objects`. A Python list means a list feature in every version of `datasets`,
# whose own word for it has changed twice.
FEATURES: Final[dict[str, dict[str, Any]]] = {
    "masks": {"image_id": _STRING, **_OF_IMAGE, "masks": [_OF_MASK]},
    "objects": {
        "image_id": _INT64,
        "source_image_id": _STRING,
        **_OF_IMAGE,
        "objects": {
            "id": [_INT64],
            "category": [{"names": [CATEGORY["name"]], "_type": "ClassLabel"}],
            **{name: [feature] for name, feature in _OF_MASK.items()},
        },
    },
}


def _write(job: ExportJob) -> ExportReport:
    splits, layout = job.splits, job.options.layout or "masks"
    for split in splits:
        if not _SPLIT.fullmatch(split):
            raise ConfigError(f"--split {split!r}: `datasets` allows only letters, digits and _ in a split's name.")
    if layout not in FEATURES:
        raise ConfigError(f"--layout {layout!r} is not {' or '.join(FEATURES)}.")
    job.claim(_DATA_FOLDER)
    features = FEATURES[layout]
    # `datasets` reads the features from this key of the schema's metadata.
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pa.schema([(name, _arrow_type(feature)) for name, feature in features.items()], metadata=metadata)
    files = {
        split: [*job.parquet_files(f"{_DATA_FOLDER}/{split}", schema, _row_groups(job, schema, split))]
        for split in splits
    }
    images = {split: sum(rows for _, rows, _ in written) for split, written in files.items()}
    counts = {"masks": job.written.num_masks, "expressions": job.written.num_texts}
    text = card(job.request, images, counts, job.dropped, sha256=job.content_sha256)
    job.add_file(_CARD_NAME, text.encode())
    to_fill = f"Fill in the licence of the images in {_CARD_NAME} and {CROISSANT_NAME} before you publish."
    return job.report(
        {**images, **counts},
        {split: len(written) for split, written in files.items()},
        notes=() if job.options.license else (to_fill,),
        tables={"default": (f"{_DATA_FOLDER}/{splits[0] if len(splits) == 1 else '*'}-*.parquet", schema)},
        checked="every PNG decodes to its mask",
    )


_SUMMARY: Final = "a folder for datasets.load_dataset: images and masks as image features, and a card"
HF: Final = ExportFormat("hf", _SUMMARY, _write, reads=("max_tokens", "split", "target_mb", "layout", "license"))


def _arrow_type(feature: Any) -> pa.DataType:
    if isinstance(feature, list):
        return pa.list_(pa.field("element", _arrow_type(feature[0])))
    if feature == _IMAGE:
        return pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    if "_type" in feature:
        return _VALUES[feature.get("dtype", "int64")]
    return pa.struct([(name, _arrow_type(inner)) for name, inner in feature.items()])


def _row_groups(job: ExportJob, schema: pa.Schema, split: str) -> Iterator[pa.Table]:
    held: list[tuple[dict[str, Any], Content]] = []
    held_bytes = 0
    max_bytes = min(_MAX_GROUP_BYTES, job.options.target_bytes)
    for image in job.images(split=split):
        files = [mask_png(mask) for mask in image.masks]
        masks = [
            {
                "id": mask.number,
                "category": 0,
                "mask_id": mask.record.mask_id,
                "mask": {"bytes": png, "path": f"{mask.record.mask_id}.png"},
                **mask.measures,
                "expressions": [each.text for each in said],
                "distinctiveness": [each.record.distinctiveness for each in said],
            }
            for (mask, said), (png, _) in zip(image.masks_with_texts(), files, strict=True)
        ]
        is_of_masks = job.options.layout in (None, "masks")
        # The row has the fields of every layout, because Arrow ignores keys that are not in the schema.
        row = {
            "image_id": image.image_id if is_of_masks else image.number,
            "source_image_id": image.image_id,
            "key": image.key,
            "height": image.size[0],
            "width": image.size[1],
            "image": {"bytes": image.data, "path": image.name},
            "masks": masks,
            "objects": {name: [mask[name] for mask in masks] for name in masks[0]},
        }
        size_bytes = len(image.data) + sum(len(png) for png, _ in files)
        if held and (len(held) >= _MAX_GROUP_ROWS or held_bytes + size_bytes > max_bytes):
            yield _table(job, held, schema)
            held, held_bytes = [], 0
        held.append((row, image.content(image.image_id, (counts for _, counts in files))))
        held_bytes += size_bytes
    if held:
        yield _table(job, held, schema)


def _table(job: ExportJob, held: Sequence[tuple[dict[str, Any], Content]], schema: pa.Schema) -> pa.Table:
    """Return rows as a table, each compared with what it must say."""
    table = pa.Table.from_pylist([row for row, _ in held], schema)
    # Rows are converted one by one, because a whole group of Python values would double the memory.
    for (row, due), batch in zip(held, table.to_batches(max_chunksize=1), strict=True):
        (found,) = batch.to_pylist()
        masks = found.get("masks")
        if masks is None:
            objects = found["objects"]
            masks = [dict(zip(objects, values, strict=True)) for values in zip(*objects.values(), strict=True)]
        # A PNG was decoded when it was made, so equal bytes are the same mask.
        counts = {mask["mask"]["bytes"]: code for mask, code in zip(row["masks"], due.masks, strict=True)}
        if found["image"] != row["image"]:
            raise broken(due.name, "its row has another image")
        of_masks = [(counts.get(mask["mask"]["bytes"]), mask["expressions"]) for mask in masks]
        name, size = found.get("source_image_id", found["image_id"]), (found["height"], found["width"])
        job.add(due, Content.of_masks(name, size, of_masks))
    return table


# The Hub has these size categories. Each bound is ten times the one before, and the first is 1,000 images.
_SIZES: Final = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B")


def card(
    request: ExportRequest,
    images: Mapping[str, int],
    rows: Mapping[str, int],
    dropped: Mapping[str, int],
    *,
    sha256: str,
) -> str:
    """Return README.md, out of `templates/dataset_card.md.j2`; `images` has their number by split.

    It does not name where the images came from: a path or a bucket's name is private.
    """
    several = {f"images of {split}": number for split, number in images.items()} if len(images) > 1 else {}
    counts = {"images": sum(images.values()), **several, **rows}
    if num_quarantined := sum(receipt.counts.quarantined for receipt in request.run.receipts):
        counts["quarantined images"] = num_quarantined
    counts |= {f"left out: {reason}": number for reason, number in dropped.items()}
    header = request.run.header
    clauses, stages = kept_clauses(header), list(dict.fromkeys(used_models(header)))
    title = f"Referring expressions for masks, {'written by people' if header.is_human else 'made by models'}"
    template = markdown_templates("pseudoris.interchange.exports").get_template("dataset_card.md.j2")
    return template.render(
        head=yaml.safe_dump(
            head(images, header, title=title, licence=request.options.license, sha256=sha256), sort_keys=False
        ),
        licence=request.options.license,
        title=title,
        header=header,
        split=next(iter(images)),
        objects="objects" if request.options.layout == "objects" else "",
        counts=counts,
        stages=stages,
        people=[run for run in header.runs if run.is_human],
        clauses=clauses,
        is_filtered=any(clause.source == SOURCE_MODEL for clause in clauses),
        unscored=list(dict.fromkeys(filter(None, map(_unscored, clauses)))),
        is_packaged=any(scheme == "builtin" for *_, scheme in stages),
    )


def _unscored(clause: KeptClause) -> str | None:
    """Return the expressions of a clause if they may be kept and have no distinctiveness."""
    if clause.source != SOURCE_MODEL:
        return {SOURCE_COMPOSER: "composed ones", SOURCE_HUMAN: "people's"}.get(clause.source, "all")
    return (
        "captions of a mask alone in its image" if clause.kinds == (LONE_MASK,) and clause.condition != NEVER else None
    )


def head(
    images: Mapping[str, int], header: RunHeader, *, title: str, licence: str | None, sha256: str
) -> dict[str, Any]:
    """Return the part of the card that the hub and `load_dataset` read, of images by split."""
    return {
        "pretty_name": title,
        "license": licence or "unknown",
        "language": ["en"],
        "task_categories": ["image-segmentation"],
        "tags": ["referring-image-segmentation", *([] if header.is_human else ["synthetic"]), "pseudoris"],
        "size_categories": [_SIZES[min(max(len(str(sum(images.values()))) - 3, 0), len(_SIZES) - 1)]],
        # `datasets` caches by the name of the folder and a hash of this, and looks at no file. So two exports need
        # different words here (datasets 4.8.5 and 5.2.0, LocalDatasetModuleFactory.get_module).
        "configs": [
            {
                "config_name": "default",
                "description": f"sha256 of the content: {sha256}",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in images],
            }
        ],
    }
