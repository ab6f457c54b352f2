"""The steps of an example: commands, with the hours and memory of each, so that an interrupted example goes on.

A command is run once, and refused where other words made what it would make.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import psutil
import typer

from evidence.benchmarks.process_watch import descendants, total
from pseudoris.primitives.errors import ConfigError, PseudorisError

_PERIOD_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What a step has cost so far.

    Attributes:
        name: Of the step.
        seconds: Wall seconds over all sessions, those that were interrupted included.
        peak_bytes: Largest private memory of this process and all below it, together.
        is_finished: Whether it ended without an error.
    """

    name: str
    seconds: float = 0.0
    peak_bytes: int = 0
    is_finished: bool = False


def run_pseudoris(*words: str | Path, into: Path | None = None, module: str = "pseudoris") -> None:
    """Run a command of `pseudoris`; its own message has said what is wrong if it fails.

    Args:
        words: Of the command.
        module: Another one to run in its place.
        into: The file that gets what the command prints, once it has ended well; None shows it.

    Raises:
        typer.Exit: It failed; with its exit code.
    """
    shown = None if into is None else subprocess.PIPE
    ended = subprocess.run([sys.executable, "-m", module, *map(str, words)], check=False, stdout=shown)
    if ended.returncode:
        raise typer.Exit(ended.returncode)
    if into is not None:
        into.parent.mkdir(parents=True, exist_ok=True)
        into.write_bytes(ended.stdout)


def replace_json(path: Path, value: object) -> None:
    """Write a file that at any time holds the old value or the new one, whole."""
    replace_bytes(path, f"{json.dumps(value, indent=1)}\n".encode())


def replace_bytes(path: Path, data: bytes) -> None:
    """Write a file whole, as `replace_json`."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_bytes(data)
    unfinished.replace(path)


def read_made(path: Path, record: Path, parse: Callable[[str], Any]) -> Any:
    """Return a file of a step, parsed; a ConfigError names it, and `record`, without which the step runs again."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}. Delete {record}, and the step runs again.") from None


class StepLog:
    """The records of an example's steps, a JSON file each."""

    def __init__(self, folder: Path) -> None:
        """Keep records in `folder`, which is made if it is missing."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def read(self, name: str) -> StepRecord:
        """Return the record of a step; an empty one before its first session."""
        path = self.path(name)
        return _record(path) if path.exists() else StepRecord(name)

    def records(self) -> list[StepRecord]:
        """Return all records, in the order in which the steps began."""
        paths = sorted(self._folder.glob("*.json"), key=lambda path: path.stat().st_ctime_ns)
        return [_record(path) for path in paths]

    def step(self, name: str, work: Callable[[], None]) -> None:
        """Do the work of a step and measure it, unless it is finished; tell which."""
        if self.read(name).is_finished:
            typer.echo(f"{name}: finished before", err=True)
            return
        typer.echo(name, err=True)
        with self.measured(name):
            work()

    @contextmanager
    def measured(self, name: str) -> Iterator[None]:
        """Add what happens inside to the record; it counts as finished if nothing is raised."""
        before, started = self.read(name), time.monotonic()
        watch = _MemoryWatch()
        watch.start()
        is_finished = False
        try:
            yield
            is_finished = True
        finally:
            peak = max(before.peak_bytes, watch.stop())
            seconds = before.seconds + time.monotonic() - started
            self._write(replace(before, seconds=round(seconds, 1), peak_bytes=peak, is_finished=is_finished))

    def path(self, name: str) -> Path:
        """Return the file of a step's record."""
        return self._folder / f"{name.replace('/', '-')}.json"

    def _write(self, record: StepRecord) -> None:
        replace_json(self.path(record.name), asdict(record))


def _record(path: Path) -> StepRecord:
    made: StepRecord = read_made(path, path, lambda text: StepRecord(**json.loads(text)))
    return made


class _MemoryWatch(threading.Thread):
    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._has_ended = threading.Event()
        self._peak_bytes = 0

    def run(self) -> None:
        """Sample until `stop`."""
        while True:
            now = total((psutil.Process(), *descendants(os.getpid())))
            self._peak_bytes = max(self._peak_bytes, now.private_bytes)
            if self._has_ended.wait(_PERIOD_S):
                return

    def stop(self) -> int:
        """End, and return the largest sample."""
        self._has_ended.set()
        self.join()
        return self._peak_bytes


def record_path(out: Path, name: str) -> Path:
    """Return the file of a record, in a folder that exists."""
    (out / "records").mkdir(parents=True, exist_ok=True)
    return out / "records" / f"{name}.json"


def read_record(out: Path, name: str) -> Any:
    """Return what a record holds; None if there is none.

    Raises:
        ConfigError: It is no JSON.
    """
    path = out / "records" / f"{name}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    except ValueError:
        raise ConfigError(f"{path} is damaged. Name another OUT, or delete {out} and begin again") from None


def write_record(out: Path, name: str, value: Any) -> None:
    """Write a record."""
    replace_json(record_path(out, name), value)


# Where a step computes decides nothing.
_PLACEMENT: Final = "--set=placement."
_MEANINGLESS: Final = "**Weights are random: these figures mean nothing. They show that every step runs.**"


@dataclass(frozen=True, slots=True)
class Step:
    """A command of `pseudoris`, or of `module`; what it prints goes `into` a file, and `load` reads its settings."""

    name: str
    words: tuple[str, ...]
    into: Path | None = None
    load: Callable[[str, None, Sequence[str]], object] | None = None
    module: str = "pseudoris"

    def check(self) -> None:
        """Load the settings as the command will; a ConfigError names the step."""
        if self.load is not None:
            settings = [word.removeprefix("--set=") for word in self.words if word.startswith("--set=")]
            try:
                self.load(self.words[self.words.index("--preset") + 1], None, settings)
            except ConfigError as error:
                raise ConfigError(f"{self.name}: {error}") from None


def set_words(*words: str) -> tuple[str, ...]:
    """Return `key=value` words as options of a command."""
    return tuple(f"--set={word}" for word in words)


def run_steps(out: Path, steps: Sequence[Step], places: Mapping[str, Path]) -> list[StepRecord]:
    """Run the steps that are not finished, in order, and return what each has cost.

    Args:
        out: Gets the records.
        steps: Each once.
        places: Folders in the words, by name: where they lie decides nothing.

    Raises:
        ConfigError: A step has a bad setting, or a finished one was made by other words. Nothing has run then.
        typer.Exit: A command failed.
    """
    for step in steps:
        step.check()
    log = StepLog(out / "steps")
    decisive = {step.name: _decisive(step, places) for step in steps}
    for step in steps:
        if log.read(step.name).is_finished:
            _refuse_others(out, step, decisive[step.name], log.path(step.name))
    for step in steps:
        log.step(step.name, partial(_run, step, decisive[step.name], _words_file(out, step)))
    return [log.read(step.name) for step in steps]


def _run(step: Step, decisive: Sequence[str], path: Path) -> None:
    run_pseudoris(*step.words, into=step.into, module=step.module)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(decisive) + "\n", encoding="utf-8")


def named_rows(table: str, known: Iterable[str], named: Iterable[str] | None) -> list[str]:
    """Return the rows that `--row` names, or refuse one that the table does not have."""
    rows = list(named or ())
    if unknown := [name for name in rows if name not in known]:
        raise ConfigError(f"--row {unknown[0]!r} is not in the table {table}. Its rows are {', '.join(known)}.")
    return rows


def weight_notes(steps: Iterable[Step]) -> list[str]:
    """Return what a page says first if the weights of a step are random."""
    return [_MEANINGLESS] if any("random:" in word for step in steps for word in step.words) else []


def write_page(path: Path, make: Callable[[], str]) -> None:
    """Write and show a page; a user's mistake is told in a sentence, and ends the command with 2."""
    try:
        page = make()
        path.write_text(page, encoding="utf-8")
    except (PseudorisError, OSError) as error:
        # What is read is checked where it is read.
        remedy = f". Name an OUT that can be written, not {path.parent}." if isinstance(error, OSError) else ""
        typer.echo(f"error: {error}{remedy}", err=True)
        raise typer.Exit(2) from None
    typer.echo(page)


def _refuse_others(out: Path, step: Step, now: Sequence[str], record: Path) -> None:
    """Refuse a finished step that other words made, for it is known by its name alone, or whose files are damaged."""
    made = read_made(_words_file(out, step), record, json.loads)
    if step.into is not None:
        read_made(step.into, record, json.loads if step.into.suffix == ".json" else str)
    if made != now:
        before, here = ([each for each in words if each not in others] for words, others in ((made, now), (now, made)))
        raise ConfigError(
            f"{out}: the step {step.name!r} is finished, with {' '.join(before) or 'less'}; now it has "
            f"{' '.join(here) or 'less'}. Give what made it, or another OUT."
        )


def _words_file(out: Path, step: Step) -> Path:
    return out / "words" / f"{step.name.replace('/', '-')}.json"


def _decisive(step: Step, places: Mapping[str, Path]) -> list[str]:
    """The words of a step wherever its folders lie."""
    words = [word for word in step.words if not word.startswith(_PLACEMENT)]
    for name, place in places.items():
        words = [word.replace(str(place), name) for word in words]
    return words
