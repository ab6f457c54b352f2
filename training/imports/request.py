"""What an import is asked to do, and what of it decides the tables' bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from schemas.config import RunConfig
from schemas.run import Identity
from training.imports.masks import Orientation
from training.runs.planning import package_versions

Format = Literal["refer", "coco"]

DEFAULT_SPLITS: Final = ("train",)
# What reads, draws and writes: another version may give other bytes.
_PACKAGES: Final = ("pseudoris", "pyarrow", "pillow", "numpy", "pycocotools")
# The parts of a configuration that an import reads; the models' are not among them.
_SECTIONS: Final = ("images", "shards")


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """One import.

    Attributes:
        annotation: File or url of COCO JSON or of a pickle of references; of REFER also their folder.
        images: Folder or url that file names are relative to; with it, keys and ids are those of a run over it.
        config: Its limits of images, size of shards, storage and endpoint are read, and nothing of its models.
        format: `refer` or `coco`.
        splits: Of REFER: which references; all of them go into one run.
        split_by: Of REFER, where `annotation` is a folder: which `refs(<split_by>).p`; None where there is one.
        captions: Of COCO: file or url of captions by instance; None where there is none.
        prefix: Folder below `images` that the file names start in, "" for `images` itself.
        orientation: What masks and sizes refer to.
        num_workers: Shards at work at a time; decides no byte.
    """

    annotation: str
    images: str
    config: RunConfig
    format: Format
    splits: tuple[str, ...] = DEFAULT_SPLITS
    split_by: str | None = None
    captions: str | None = None
    prefix: str = ""
    orientation: Orientation = "upright"
    num_workers: int = 1

    def identity(self, digests: Mapping[str, str]) -> Identity:
        """Return what must be equal for two calls to belong to one run.

        Args:
            digests: sha256 of the annotation's files by name.
        """
        method: dict[str, Any] = {name: getattr(self.config, name).model_dump(mode="json") for name in _SECTIONS}
        method["import"] = {
            "format": self.format,
            "files": dict(digests),
            "prefix": self.prefix,
            "orientation": self.orientation,
            **({"splits": sorted(set(self.splits))} if self.format == "refer" else {}),
        }
        # No model computes; boxes and runs are whole numbers on every machine.
        return Identity(method=method, weights={}, device_kind="none", versions=package_versions(_PACKAGES))
