"""The truth that a run is compared with, by the name that `--truth` gives it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.run_records import RunHeader
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import read_header

if TYPE_CHECKING:
    from pseudoris.training.evaluation.truth import Truth

SYNTHWORLD: Final = "synthworld"


def open_truth(
    name: str, header: RunHeader, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Truth:
    """Return the truth that `--truth` names.

    Args:
        name: `synthworld`, `synthworld:FILE`, or where an import lives.
        header: Of the run that is evaluated; its SOURCE says where the synthetic world's truth stands.
        on_progress: Told how many of how many shards of an import are read.

    Raises:
        ConfigError: There is no such truth, or it cannot be used.
        TransientError: Storage failed.
    """
    kind, colon, file = name.partition(":")
    if kind == SYNTHWORLD:
        return _scene_truth(file, None) if colon else _scene_truth(beside(header.source), header)
    from pseudoris.training.evaluation.human_truth import HumanTruth

    if Path(name).is_file():
        raise ConfigError(
            f"--truth {name} is a file. Give the OUT of `pseudoris import`. If the file is a truth.json of the "
            f"synthetic world, give {SYNTHWORLD}:{name}."
        )
    location = RunLocation.open(name)
    if read_header(location) is None:
        raise ConfigError(
            f"--truth {name!r} is neither `{SYNTHWORLD}`, nor `{SYNTHWORLD}:FILE`, nor a run: there is no run at "
            f"{location.root}. Give the OUT of `pseudoris import`."
        )
    return HumanTruth.read(location, on_progress)


def beside(source: str) -> str:
    """Return where the synthetic world's truth of a SOURCE stands: beside the folder of images."""
    from pseudoris.synthworld.demo import TRUTH_FILE

    parent = source.rstrip("/").rpartition("/")[0]
    return f"{parent}/{TRUTH_FILE}"


def _scene_truth(address: str, header: RunHeader | None) -> Truth:
    from pseudoris.synthworld.scene_truth import SceneTruth

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
    return SceneTruth.from_json(data, location.uri(name))
