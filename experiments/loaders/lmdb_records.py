"""Prints what DETRIS's `RefDataset` gives, a sentence a line; run by path, under the pyarrow 11 that it pins.

python lmdb_records.py TREE EXPORT
"""

from __future__ import annotations

import importlib
import json
import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

# Images are warped into a square of this side: those of the demo, of 192 pixels at most, by whole pixels.
_SIDE = 192


def main(tree: Path, export: Path) -> None:
    """Make the LMDB by the trainer's tool, then read it by the trainer's data set."""
    lmdb, records, masks = export.with_name("detris-lmdb"), export / "anns/refcoco/train.json", export / "masks/refcoco"
    flags = {"-j": records, "-i": export / "images/train2014", "-m": masks, "-o": lmdb}
    sys.argv = ["folder2lmdb.py", *(str(each) for pair in flags.items() for each in pair)]
    runpy.run_path(str(tree / "tools/folder2lmdb.py"), run_name="__main__")
    package: Any = ModuleType("utils")
    package.__path__ = [str(tree / "utils")]
    sys.modules["utils"] = package
    module: Any = importlib.import_module("utils.dataset")
    module.info["refcoco"]["train"] = len(json.loads(records.read_text()))
    seen: dict[str, Any] = {}
    loads, tokenize = module.loads_pyarrow, module.tokenize
    # What it reads and does not give: the record of a sample, and its sentence before it becomes tokens.
    module.loads_pyarrow = lambda data: [seen.update(record=loads(data)), seen["record"]][1]
    module.tokenize = lambda text, *rest: [seen.update(text=text), tokenize(text, *rest)][1]
    dataset = module.RefDataset(str(lmdb / "train.lmdb"), str(masks), "refcoco", "train", "train", _SIDE, 17)
    draws = {"next": 0}
    vars(np.random)["choice"] = lambda number: draws["next"] % number
    for number in range(len(dataset)):
        draws["next"], num_sentences = 0, 1
        while draws["next"] < num_sentences:
            warped, record = dataset[number][2].numpy(), seen["record"]
            height, width = module.cv2.imdecode(np.frombuffer(record["mask"], np.uint8), 0).shape
            top, left = (_SIDE - height) // 2, (_SIDE - width) // 2
            packed = np.packbits(warped[top : top + height, left : left + width] > 0.5).tobytes().hex()
            line = {"image": record["img_name"], "text": seen["text"], "size": [height, width], "mask": packed}
            sys.stdout.write(json.dumps(line) + "\n")
            draws["next"], num_sentences = draws["next"] + 1, record["num_sents"]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
