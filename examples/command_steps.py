"""The commands of a paper's tables: each is run once, and refused where other words made what it would make."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from examples.step_log import StepLog, StepRecord, run_pseudoris
from pseudoris.schemas.errors import ConfigError

# Where a step computes decides nothing.
_PLACEMENT: Final = "--set=placement."


@dataclass(frozen=True, slots=True)
class Step:
    """A command of `pseudoris`; `into` is the file that what it prints goes to, if any."""

    name: str
    words: tuple[str, ...]
    into: Path | None = None


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
        ConfigError: A finished step was made by other words. Nothing has run then.
        typer.Exit: A command failed.
    """
    log = StepLog(out / "steps")
    decisive = {step.name: _decisive(step, places) for step in steps}
    for step in steps:
        if log.read(step.name).is_finished:
            _refuse_others(out, step, decisive[step.name])
    for step in steps:
        log.step(step.name, partial(_run, step, decisive[step.name], _words_file(out, step)))
    return [log.read(step.name) for step in steps]


def _run(step: Step, decisive: Sequence[str], path: Path) -> None:
    run_pseudoris(*step.words, into=step.into)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(decisive) + "\n", encoding="utf-8")


def _refuse_others(out: Path, step: Step, now: Sequence[str]) -> None:
    """Refuse a finished step that other words made: it is known by its name alone."""
    made = json.loads(_words_file(out, step).read_text(encoding="utf-8"))
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
