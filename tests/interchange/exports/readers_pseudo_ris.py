"""The Pseudo-RIS authors' trainer class, as formats of its CSV go: pandas, `eval`, a draw filtered by `doc`."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image


@dataclass(frozen=True)
class Row:
    """A row as the trainer sees it.

    Attributes:
        captions: Of the mask, kept or not.
        doc: A score for each.
    """

    img_name: str
    img_id: int
    seg_id: int
    captions: list[str]
    doc: list[float]
    one_mask: int
    mask: np.ndarray
    image: Path


class PseudoDataset:
    """Rows by number; `draw` is what training sees of one."""

    def __init__(self, root: Path, doc_value: float = 1.0) -> None:
        self.frame = pd.read_csv(root / "pseudo_supervision" / "cutler_sam" / "distinctive_captions_cc3m.csv")
        self._masks = root / "datasets" / "pseudo_masks" / "cutler_sam"
        self._images = root / "datasets" / "images" / "train2014"
        self._doc_value = doc_value

    def __len__(self) -> int:
        return len(self.frame)

    def __getitem__(self, index: int) -> Row:
        row = self.frame.iloc[index]
        path = self._masks / str(row["img_id"]) / f"{row['seg_id']}.png"
        with Image.open(path) as image:
            mask = np.asarray(image.convert("L")) / 255
        captions = eval(row["pseudo_caption"])
        assert len(captions) == row["num_sent"]
        return Row(
            row["img_name"],
            int(row["img_id"]),
            int(row["seg_id"]),
            captions,
            eval(row["doc"]),
            int(row["one_mask"]),
            mask,
            self._images / row["img_name"],
        )

    def candidates(self, index: int) -> list[int]:
        """Return the positions of which the trainer draws one."""
        row = self[index]
        if row.one_mask == 1:
            return list(np.argsort(row.doc)[::-1][: len(row.captions) // 2])
        above = np.where(np.array(row.doc) > self._doc_value)[0]
        return list(above) if len(above) else list(range(len(row.captions)))

    def draw(self, index: int) -> str:
        return self[index].captions[random.choice(self.candidates(index))]
