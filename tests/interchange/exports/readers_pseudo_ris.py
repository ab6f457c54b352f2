"""The Pseudo-RIS authors' trainer class, as formats of its CSV go: pandas, `eval`, a draw filtered by `doc`."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from PIL import Image


class PseudoDataset:
    """Rows by number; `draw` is what training sees of one."""

    def __init__(self, root: Path, doc_value: float = 1.0) -> None:
        self.frame = pd.read_csv(root / "pseudo_supervision" / "cutler_sam" / "distinctive_captions_cc3m.csv")
        self._masks = root / "datasets" / "pseudo_masks" / "cutler_sam"
        self._images = root / "datasets" / "images" / "train2014"
        self._doc_value = doc_value

    def __len__(self) -> int:
        return len(self.frame)

    def __getitem__(self, index: int) -> SimpleNamespace:
        """Return a row with the captions of its mask, kept or not, and a score for each."""
        row = self.frame.iloc[index]
        with Image.open(self._masks / str(row["img_id"]) / f"{row['seg_id']}.png") as image:
            mask = np.asarray(image.convert("L")) / 255
        captions, doc = eval(row["pseudo_caption"]), eval(row["doc"])
        assert len(captions) == row["num_sent"]
        numbers = {name: int(row[name]) for name in ("img_id", "seg_id", "one_mask")}
        name, path = row["img_name"], self._images / row["img_name"]
        return SimpleNamespace(img_name=name, captions=captions, doc=doc, mask=mask, image=path, **numbers)

    def candidates(self, index: int) -> list[int]:
        """Return the positions of which the trainer draws one."""
        row = self[index]
        if row.one_mask == 1:
            return list(np.argsort(row.doc)[::-1][: len(row.captions) // 2])
        above = np.where(np.array(row.doc) > self._doc_value)[0]
        return list(above) if len(above) else list(range(len(row.captions)))

    def draw(self, index: int) -> str:
        return self[index].captions[random.choice(self.candidates(index))]
