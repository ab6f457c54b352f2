"""The steps of an example: commands, with the hours and memory of each, so that an interrupted example goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import psutil
import typer

from benchmarks.process_watch import descendants, total
from pseudoris.schemas.errors import ConfigError

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
    """Samples the private memory of this process and of all below it."""

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
