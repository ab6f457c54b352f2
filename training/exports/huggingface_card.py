"""The dataset card of a `datasets` folder: its head lists the files of the split, its text describes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import yaml

from pseudoris.schemas.run_records import RunHeader
from pseudoris.training.exports.protocol import ExportRequest

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
