"""The splits of REFER datasets that models are tested on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pseudoris.schemas.errors import ConfigError
from pseudoris.training.exclusions.refer_folder import TRAIN_SPLIT
from pseudoris.training.untrusted_pickle import read_refs

_REFS: Final = re.compile(r"refs\((.+)\)\.p")


@dataclass(frozen=True, slots=True)
class ReferSplit:
    """A split that is evaluated.

    Attributes:
        folder: Of the dataset: `refs(<split_by>).p` and `instances.json`.
        split_by: As in the file's name.
        split: `val`, `test`, `testA`, `testB`, or another that is not `train`.
    """

    folder: Path
    split_by: str
    split: str

    @property
    def dataset(self) -> str:
        """`refcoco`, UNC's splits; of another file `refcocog-umd`."""
        return self.folder.name if self.split_by == "unc" else f"{self.folder.name}-{self.split_by}"

    @property
    def name(self) -> str:
        """`refcoco/testA`, `refcocog-umd/val`."""
        return f"{self.dataset}/{self.split}"


def find_splits(root: Path) -> list[ReferSplit]:
    """Return all splits but `train` of the datasets below `root`, ordered by name.

    Raises:
        ConfigError: There is no dataset, or a file of references cannot be read.
    """
    found = []
    folders = sorted({path.parent for path in (*root.glob("refs(*).p"), *root.glob("*/refs(*).p"))})
    for folder in folders:
        files = sorted(path for path in folder.iterdir() if _REFS.fullmatch(path.name))
        for path in files:
            match = _REFS.fullmatch(path.name)
            split_by = match[1] if match else ""
            splits = sorted({str(ref["split"]) for ref in read_refs(path)} - {TRAIN_SPLIT})
            found += [ReferSplit(folder, split_by, split) for split in splits]
    if not found:
        raise ConfigError(
            f"there is no split to evaluate below {root}: give the folder that holds refcoco, refcoco+ and refcocog, "
            "each with refs(…).p and instances.json"
        )
    return found
