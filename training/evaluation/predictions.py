"""Predictions of any model, from a file: a mask for each image and text, Parquet or JSON Lines.

    {"image": "a/b.jpg", "text": "the red cup", "segmentation": {"size": [480, 640], "counts": "…"}}

`image` is the file's path below the truth's folder of images, or its key there. `segmentation` is any form of COCO;
null is an empty mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from pseudoris.images.parquet_pages import read_columns
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.ids import image_id
from pseudoris.schemas.json_text import parse_json
from pseudoris.schemas.regular_files import read_regular
from pseudoris.schemas.shard import clean_text
from pseudoris.store.files.key_order import path_key
from pseudoris.training.imports.human_annotation import is_utf8
from pseudoris.training.learning.evaluator import HeldOutExpressions, ImageQuestion
from pseudoris.workers.masks import rle
from pseudoris.workers.masks.segmentation_forms import compressed_counts

SUFFIXES: Final = (".parquet", ".jsonl")
_COLUMNS: Final = ("image", "text", "segmentation")
_SHOWN_LETTERS: Final = 80


class Predictions:
    """Answers with the masks of a file; a question that it lacks counts with IoU 0.

    Attributes:
        num_missing: Questions without a prediction.
        num_unasked: Predictions that no question asks for.
    """

    def __init__(self, path: Path, questions: HeldOutExpressions) -> None:
        """Read the file and hold it to the questions.

        Raises:
            ConfigError: It cannot be read; a row lacks an image or a text, is there with two masks, or has a mask of no
                known form or of another size than its image; or no prediction is asked for. The message names the row.
        """
        self._masks: dict[tuple[str, str], str | None] = {}
        asked = {image.image_id: image for image in questions.images}
        pairs = {(image.image_id, text) for image in questions.images for text in image.texts}
        found: dict[tuple[str, str], Any] = {}
        for number, row in enumerate(_rows(path), start=1):
            where = f"--model {path}: row {number}"
            image, text = _said(row, "image", where), clean_text(_said(row, "text", where))
            known = asked.get(image_id(image)) or asked.get(image_id(path_key(image)))
            pair = (known.image_id if known else image, text)
            if "segmentation" not in row:
                raise ConfigError(f"{where} has no segmentation. Give each text its mask; null is an empty one.")
            if found.get(pair, row["segmentation"]) != row["segmentation"]:
                raise ConfigError(f"{where} predicts {text!r} of {image} a second time. Keep one of them.")
            found[pair] = row["segmentation"]
            if known is not None and pair in pairs:
                self._masks[pair] = _counts(row["segmentation"], known.size, f"{where} ({text!r} of {image})")
        if not self._masks:
            first = questions.images[0]
            raise ConfigError(
                f"--model {path}: none of its {len(found):,} predictions is asked for. The truth asks for "
                f"{first.texts[0]!r} of {first.key}. `image` must be the path below the truth's images."
            )
        self.num_missing, self.num_unasked = len(pairs) - len(self._masks), len(found) - len(self._masks)

    def notes(self) -> list[str]:
        """Return what a reader of the figures must know."""
        missing = f"{self.num_missing:,} questions have no prediction: each counts with IoU 0."
        unasked = f"{self.num_unasked:,} predictions are not asked for: they count nowhere."
        return [*([missing] if self.num_missing else []), *([unasked] if self.num_unasked else [])]

    def answer(self, question: ImageQuestion) -> torch.Tensor:
        """Return the masks of an image's expressions, (T, H, W) bool."""
        _, *size = question.masks.shape
        found = np.zeros(question.masks.shape, np.bool_)
        for row, text in enumerate(question.texts):
            pair = (question.image_id, text)
            if pair not in self._masks:
                # Wrong for certain: an empty mask would be right of a text without a target.
                found[row] = not question.masks[row].any()
            elif (counts := self._masks[pair]) is not None:
                found[row] = rle.decode([counts], (size[0], size[1]))[0]
        return torch.from_numpy(found)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        data = read_regular(path)
    except OSError as error:
        raise ConfigError(f"--model {path} cannot be read ({error.strerror}). Give a file of predictions.") from error
    if path.suffix.lower() == ".parquet":
        table = read_columns(data, _COLUMNS, where=f"--model {path}")
        lacking = [name for name in _COLUMNS if name not in table.column_names]
        if lacking:
            there = ", ".join(table.column_names) or "none"
            raise ConfigError(f"--model {path} has no column {lacking[0]}. Its columns are {there}. Rename one.")
        yield from table.to_pylist()
        return
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise ConfigError(f"--model {path}: line {number} is not JSON ({error}). Write the file again.") from error
        if not isinstance(row, dict):
            raise ConfigError(f"--model {path}: line {number} is no object with {', '.join(_COLUMNS)}. Mend it.")
        yield row


def _said(row: dict[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip() or not is_utf8(value):
        raise ConfigError(f"{where} has no {name} ({str(value)[:_SHOWN_LETTERS]!r}). Give each mask its {name}.")
    return value


def _counts(segmentation: Any, size: tuple[int, int], where: str) -> str | None:
    try:
        if isinstance(segmentation, int | float):
            raise ValueError(f"the segmentation is {segmentation}")
        counts = compressed_counts(segmentation, size)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}. Predict masks in pixels of the upright image.") from error
    if counts is not None and not rle.is_valid(counts, size):
        raise ConfigError(f"{where}: the runs of the mask do not fill the image, {size[0]} x {size[1]}. Write it anew.")
    return counts
