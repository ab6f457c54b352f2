"""The protocol of a truth: the objects of an image, and which of them a text refers to; and the truth of a name.

Two implementations: the synthetic world, which is exact (`pseudoris.synthworld.scene_truth`), and a human's
annotation, which is limited to its sentences (`human_truth`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.run_records import RunHeader
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import read_header

SYNTHWORLD: Final = "synthworld"


class ImageTruth(Protocol):
    """The objects of one image, numbered from 0."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the upright image, in pixels."""

    @property
    def masks(self) -> Sequence[str]:
        """COCO compressed RLE of each object's visible pixels; empty if the object is hidden."""

    def referents(self, text: str) -> frozenset[int] | None:
        """Return the objects that a text refers to; None if that cannot be decided."""

    def attributes(self, text: str, number: int) -> tuple[int, int, int] | None:
        """Return how many attributes a text states, how many of these are true of an object, and how many that has.

        None if the truth has no attributes.
        """

    def num_alike(self, number: int) -> int:
        """Return how many other objects share an object's category."""

    def group(self, number: int) -> str | None:
        """Return the group of `Truth.groups` that an object belongs to; None if there are no groups."""


class Truth(Protocol):
    """What is known of a set of images."""

    @property
    def title(self) -> str:
        """Its name and location, for a heading."""

    @property
    def notes(self) -> Sequence[str]:
        """Notes for a reader of its figures, one sentence each."""

    @property
    def groups(self) -> Sequence[str]:
        """Names of the groups whose accuracy is reported separately; none by default."""

    @property
    def unjudged_kinds(self) -> Sequence[str]:
        """Kinds of expressions (`counts.KINDS`) that it cannot judge: they are left out of every figure."""

    @property
    def judges_texts(self) -> bool:
        """Whether it can judge any text. If not, figures that need a verdict are undefined, and not 0."""

    @property
    def num_images(self) -> int:
        """The number of its images."""

    @property
    def example_key(self) -> str | None:
        """The key of one of them."""

    def of_image(self, image_id: str) -> ImageTruth | None:
        """Return the objects of an image, by its id; None if the truth does not have the image."""


class SceneFile(Protocol):
    """The synthetic world's truth as a file: `SceneTruth` of `pseudoris.synthworld`, which this room may not import."""

    @property
    def file_name(self) -> str:
        """Its name, next to the folder of images."""

    def from_json(self, data: bytes, name: str) -> Truth:
        """Return the truth in a file of this name. Raises: ConfigError: It is not such a file."""


def open_truth(
    name: str,
    header: RunHeader,
    scenes: SceneFile,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Truth:
    """Return the truth that `--truth` names.

    Args:
        name: `synthworld`, `synthworld:FILE`, or the location of an import.
        header: The header of the evaluated run; the synthetic world's truth is next to its SOURCE.
        scenes: Reads the synthetic world's truth.
        on_progress: Called with the number of shards of an import that are read, and the total.

    Raises:
        ConfigError: There is no such truth, or it cannot be used.
        TransientError: Storage failed.
    """
    kind, colon, file = name.partition(":")
    if kind == SYNTHWORLD:
        if colon:
            return _scene_truth(file, scenes, None)
        return _scene_truth(beside(header.source, scenes.file_name), scenes, header)
    from pseudoris.training.evaluation.human_truth import HumanTruth

    if Path(name).is_file():
        raise ConfigError(
            f"--truth {name} is a file. Give the OUT of `pseudoris import`. If the file is a truth.json of the "
            f"synthetic world, give {SYNTHWORLD}:{name}."
        )
    location = RunLocation.open(name)
    if read_header(location) is None:
        raise ConfigError(
            f"--truth {name!r} is neither `{SYNTHWORLD}` nor `{SYNTHWORLD}:FILE`, and there is no run at "
            f"{location.root}. Give the OUT of `pseudoris import`."
        )
    return HumanTruth.read(location, on_progress)


def beside(source: str, file_name: str) -> str:
    """Return the address of a file next to the folder of images of a SOURCE."""
    parent = source.rstrip("/").rpartition("/")[0]
    return f"{parent}/{file_name}"


def _scene_truth(address: str, scenes: SceneFile, header: RunHeader | None) -> Truth:
    folder, _, name = address.rpartition("/")
    remedy = f"Name the file with --truth {SYNTHWORLD}:FILE. `python -m pseudoris.synthworld.demo FOLDER` writes one."
    if not name or (folder and folder.endswith((":", "/"))):
        raise ConfigError(f"There is no file at {address!r}. {remedy}")
    endpoint_url = None if header is None else header.config.source.endpoint_url
    location = RunLocation.open(folder or str(Path.cwd()), endpoint_url)
    try:
        data = location.read_bytes(name)
    except FileNotFoundError:
        raise ConfigError(f"There is no truth of the synthetic world at {location.uri(name)}. {remedy}") from None
    return scenes.from_json(data, location.uri(name))
