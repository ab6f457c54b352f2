"""A part of docs/records/quality.md or of its appendix, and how it runs: its result is JSON, which later runs reuse.

To add a part: a module here that ends in `PART = Part(…)`, its text `texts/<part>.md.j2`, and the module's name in
`MODULES`, in the order of the page. When a part leaves, its section goes as text, with commit and command, into
`texts/recorded.md.j2` or `texts/appendix_recorded.md.j2`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np

from evidence.benchmarks.measurement import cpu_seconds
from pseudoris.schemas.config_layers import config_hash, load_config

Result = dict[str, Any]
# Modules of this package: first those of the page, then those of its appendix.
MODULES: Final[tuple[str, ...]] = (
    "expressions",
    "judge",
    "students",
    "ablation",
    "composition",
    "listener",
)
# Where the last whole run's results are kept, and read from for parts that were not run.
RECORDS: Final = Path(__file__).parents[1] / "results"
_WHOLE: Final = "quality-whole.json"

# Scenes have 8 bits, and no figure needs perceptual hashes: what was measured before 0.7 keeps its hash.
BEFORE_0_7: Final = ("images.bits=stored", "images.phash=false")


@dataclass(frozen=True)
class Options:
    """How a run of the parts goes.

    Attributes:
        out: Folder of results and of what may be used again.
        is_quick: Fewer scenes and steps: a trial of the whole in minutes.
        processes: Of one thread each.
        seed: Of whatever a part draws itself.
        max_scenes: No set of scenes is larger; None leaves them as large as they are.
    """

    out: Path
    is_quick: bool = False
    processes: int = 2
    seed: int = 0
    max_scenes: int | None = None

    @property
    def is_whole(self) -> bool:
        """Whether this is the run that the page in docs is made of."""
        return not self.is_quick and self.seed == 0 and self.max_scenes is None

    def pick(self, whole: int, quick: int) -> int:
        """Return the number for this run."""
        return quick if self.is_quick else whole

    def scenes(self, whole: int, quick: int) -> int:
        """Return the number of scenes for this run."""
        wanted = self.pick(whole, quick)
        return wanted if self.max_scenes is None else min(wanted, self.max_scenes)


def draw_generator(seed: int, *key: int) -> np.random.Generator:
    """Return a generator that depends on its key alone, whatever was drawn before."""
    return np.random.default_rng([seed, *key])


def _nothing(given: object) -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True)
class Part:
    """One part.

    Attributes:
        name: On the command line and in file names.
        run: Measures; returns JSON values alone.
        section: From a result to Markdown, its first line a heading of the second level: `page.template`. Plots are
            linked by `plot_name`.
        plots: From a result to SVG texts by short name.
        headline: From a result to what stands at the top of docs/records/quality.json.
        settings: What its result depends on beside the options and the method of `tiny`, as JSON.
        is_appendix: Whether its section stands in docs/records/appendix/quality.md.
    """

    name: str
    run: Callable[[Options], Result]
    section: Callable[[Result], str]
    plots: Callable[[Result], Mapping[str, str]] = _nothing
    headline: Callable[[Result], Mapping[str, Any]] = _nothing
    settings: Callable[[Options], Mapping[str, Any]] = _nothing
    is_appendix: bool = False


@dataclass(frozen=True)
class Record:
    """A part's result, and what it cost.

    Attributes:
        part: Its name.
        fingerprint: What the result depends on; with another one it is measured anew.
        seconds: Wall seconds.
        cpu_seconds: Of all its processes; half of it is what two quiet cores take.
        result: What `Part.run` returned.
    """

    part: str
    fingerprint: Mapping[str, Any]
    seconds: float
    cpu_seconds: float
    result: Result


@dataclass(frozen=True)
class WholeRun:
    """What one command took that began in an empty folder and ran every part.

    Attributes:
        machine: Its processor and cores.
        seconds: Wall seconds.
        cpu_seconds: Of all its processes.
    """

    machine: str
    seconds: float
    cpu_seconds: float


def load_parts() -> list[Part]:
    """Return all parts, in the order of the page."""
    parts: list[Part] = [import_module(f"evidence.experiments.quality.{name}").PART for name in MODULES]
    return parts


def run_part(part: Part, options: Options) -> Record:
    """Return a part's record, out of OUT where it stands, else measured and written there."""
    path = record_path(options.out, part.name)
    found = read_record(path)
    if found is not None and found.fingerprint == fingerprint(part, options):
        return found
    started, used = time.perf_counter(), cpu_seconds()
    result = part.run(options)
    seconds, cpu = time.perf_counter() - started, cpu_seconds() - used
    record = Record(part.name, fingerprint(part, options), round(seconds, 1), round(cpu, 1), result)
    write_record(record, path)
    return record


def fingerprint(part: Part, options: Options) -> dict[str, Any]:
    """Return what a result depends on beside the code."""
    tiny = config_hash(load_config("tiny", None, BEFORE_0_7))[:16]
    own = {"quick": options.is_quick, "seed": options.seed, "max_scenes": options.max_scenes, "tiny": tiny}
    return {**own, **part.settings(options)}


def record_path(folder: Path, name: str) -> Path:
    """Return where a part's record stands in a folder."""
    return folder / f"quality-{name}.json"


def read_record(path: Path) -> Record | None:
    """Return a record, None where there is none."""
    if not path.is_file():
        return None
    return Record(**json.loads(path.read_text(encoding="utf-8")))


def write_record(record: Record, path: Path) -> None:
    """Write a record; it takes its name when it is complete."""
    _write(vars(record), path)


def read_whole(folder: Path) -> WholeRun | None:
    """Return what the last whole run took, None where none was recorded."""
    path = folder / _WHOLE
    return WholeRun(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def write_whole(whole: WholeRun, folder: Path) -> None:
    """Write what a whole run took."""
    _write(vars(whole), folder / _WHOLE)


def _write(values: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    unfinished.rename(path)
