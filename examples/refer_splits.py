"""The splits of REFER datasets that models are tested on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pseudoris.interchange.exclusions import TRAIN_SPLIT
from pseudoris.interchange.untrusted_pickle import read_refs
from pseudoris.primitives.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ReferDataset:
    """A file of references that models are tested on.

    Attributes:
        folder: `refs(<split_by>).p` and `instances.json`.
        split_by: As in the file's name.
        splits: `val`, `test`, `testA`, `testB`, or others that are not `train`, in order.
    """

    folder: Path
    split_by: str
    splits: tuple[str, ...]

    @property
    def name(self) -> str:
        """`refcoco`, UNC's splits; of another file `refcocog-umd`."""
        return self.folder.name if self.split_by == "unc" else f"{self.folder.name}-{self.split_by}"


def find_datasets(root: Path) -> list[ReferDataset]:
    """Return the datasets below `root` that have a split besides `train`, ordered by name.

    Raises:
        ConfigError: There is none, or a file of references cannot be read.
    """
    found = []
    for path in sorted((*root.glob("refs(*).p"), *root.glob("*/refs(*).p"))):
        if splits := sorted({str(ref["split"]) for ref in read_refs(path)} - {TRAIN_SPLIT}):
            split_by = path.name.removeprefix("refs(").removesuffix(").p")
            found.append(ReferDataset(path.parent, split_by, tuple(splits)))
    if not found:
        raise ConfigError(
            f"there is no split to evaluate below {root}: give the folder that holds refcoco, refcoco+ and refcocog, "
            "each with refs(…).p and instances.json"
        )
    return found
