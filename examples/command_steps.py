"""The commands of a paper's tables: each is run once, and refused where other words made what it would make."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import typer

from examples.step_log import StepLog, StepRecord, read_made, run_pseudoris
from pseudoris.schemas.errors import ConfigError, PseudorisError

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
