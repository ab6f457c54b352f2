"""From a table to the commands that make it, in order; a command that several tables need stands once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from examples.command_steps import Step, set_words
from examples.pseudo_ris.inputs import SEEN, UNSEEN, write_phrasecut, write_share
from examples.pseudo_ris.tables import ANNOTATIONS, LEARNERS, TABLES, Learner
from examples.refer_splits import find_datasets
from experiments.segmenter.segmenter_config import load_segmenter_config
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.errors import ConfigError
from pseudoris.training.chooser.chooser_config import load_chooser_config

# Whose train images are annotated, and whose human references are mixed in.
TRAINED_ON: Final = "refcoco+"
# For the trainers of the paper; the other one is what the authors' own loader reads.
EXPORTS: Final = ("cris", "pseudo-ris-csv")
PHRASECUT: Final = "phrasecut"
_SEGMENTER: Final = "experiments.segmenter"


@dataclass(frozen=True, slots=True)
class Benchmark:
    """The folders and settings of all tables.

    Attributes:
        refer: Holds the REFER datasets.
        images: train2014.
        out: Gets all that is written.
        preset: Of the annotation; with `settings` as words of `--set`, of one annotation alone as `NAME:KEY=VALUE`.
        student: Preset of the students; with `training` as words of `--set`.
        phrasecut: VGPhraseCut_v0; None if there is none.
        is_strict: Whether images that any dataset holds out are left out.
    """

    refer: Path
    images: Path
    out: Path
    preset: str = "paper"
    settings: Sequence[str] = ()
    student: str = "vit-b-16"
    training: Sequence[str] = ()
    phrasecut: Path | None = None
    is_strict: bool = False

    @property
    def places(self) -> dict[str, Path]:
        """The folders by name."""
        given = {"OUT": self.out, "REFER": self.refer, "IMAGES": self.images}
        return given if self.phrasecut is None else {**given, "PHRASECUT": self.phrasecut}

    def at(self, *parts: str) -> str:
        """Return a place in OUT."""
        return str(self.out.joinpath(*parts))


@dataclass(frozen=True, slots=True)
class Truth:
    """What models are asked: an import, and which of its splits."""

    name: str
    import_words: tuple[str, ...]
    splits: tuple[str, ...]

    def result(self, benchmark: Benchmark, learner: str) -> Path:
        """Return the file of a learner's figures."""
        return benchmark.out / "results" / learner / f"{self.name}-{'-'.join(self.splits)}.json"


def truths(benchmark: Benchmark, table: str) -> list[Truth]:
    """Return what a table asks.

    Raises:
        ConfigError: There is no such split, or PhraseCut is not given.
    """
    wanted = TABLES[table].truth
    if wanted == PHRASECUT:
        if benchmark.phrasecut is None:
            raise ConfigError("The table phrasecut needs --phrasecut: the folder VGPhraseCut_v0, with images/ in it.")
        folder = write_phrasecut(benchmark.phrasecut, benchmark.refer, benchmark.out / "inputs" / PHRASECUT)
        images = str(benchmark.phrasecut / "images")
        return [Truth(PHRASECUT, (str(folder), images, *_splits(SEEN, UNSEEN), "--format=phrasecut"), (SEEN, UNSEEN))]
    found = []
    for each in find_datasets(benchmark.refer):
        asked = tuple(split for split in each.splits if f"{each.name}/{split}".endswith(wanted))
        words = (str(each.folder), str(benchmark.images), *_splits(*each.splits))
        found.append(Truth(each.name, (*words, "--format=refer", f"--split-by={each.split_by}"), asked))
    return [truth for truth in found if truth.splits]


def plan(benchmark: Benchmark, table: str, learners: Sequence[str], asked: Sequence[Truth]) -> list[Step]:
    """Return the steps of rows of a table, each once; `asked` is what `truths` gives.

    Raises:
        ConfigError: An input is missing, or a row has no setting.
    """
    steps = [_annotate(benchmark, "main"), *(_import(benchmark, truth) for truth in asked)]
    for name in learners:
        steps += _learn(benchmark, name, LEARNERS[name])
        steps += [step for truth in asked for step in _evaluate(benchmark, name, truth)]
    if table == "main":
        steps += [_export(benchmark, form) for form in EXPORTS]
    return list({step.name: step for step in steps}.values())


def _import(benchmark: Benchmark, truth: Truth) -> Step:
    annotation, images, *words = truth.import_words
    return Step(f"import {truth.name}", ("import", annotation, images, benchmark.at("truth", truth.name), *words))


def _evaluate(benchmark: Benchmark, name: str, truth: Truth) -> Iterator[Step]:
    model, splits, at = benchmark.at("models", name), ",".join(truth.splits), benchmark.at("truth", truth.name)
    asked = f"{name} {truth.name} {splits}"
    if LEARNERS[name].kind == "segmenter":
        answers = benchmark.at("predictions", name, f"{truth.name}-{'-'.join(truth.splits)}.jsonl")
        given = (model, at, answers, "--split", splits)
        yield Step(f"predict {asked}", given, module=f"{_SEGMENTER}.predictions")
        model = answers
    words = ("evaluate", "--model", model, "--truth", at, "--split", splits, "--json")
    yield Step(f"evaluate {asked}", words, truth.result(benchmark, name))


def _splits(*names: str) -> tuple[str, ...]:
    return tuple(f"--split={name}" for name in names)


def _annotate(benchmark: Benchmark, name: str) -> Step:
    made, run = ANNOTATIONS[name], benchmark.at("runs", name)
    if made.refilter:
        return Step(f"refilter {name}", ("refilter", benchmark.at("runs", "main"), run, *made.refilter))
    strict = ("--exclude", str(benchmark.refer)) if benchmark.is_strict else ()
    images = ("--only", str(benchmark.refer / TRAINED_ON), *strict)
    words = ("--preset", benchmark.preset, *images, *set_words(*_settings(benchmark, name)))
    return Step(f"annotate {name}", ("annotate", str(benchmark.images), run, *words), load=load_config)


def _settings(benchmark: Benchmark, name: str) -> list[str]:
    """Words for all annotations, then those of this one, and last those that the user gives to it alone."""
    named = tuple(f"{each}:" for each, made in ANNOTATIONS.items() if not made.refilter)
    own = [word.removeprefix(f"{name}:") for word in benchmark.settings if word.startswith(f"{name}:")]
    return [*(word for word in benchmark.settings if not word.startswith(named)), *ANNOTATIONS[name].settings, *own]


def _learn(benchmark: Benchmark, name: str, learner: Learner) -> Iterator[Step]:
    if learner.annotation is None and not learner.human:
        raise ConfigError(f"The row {name} ({learner.title}) cannot be run: it needs {learner.needs}.")
    runs: tuple[str, ...] = ()
    if learner.annotation is not None:
        runs = (benchmark.at("runs", learner.annotation),)
        yield _annotate(benchmark, learner.annotation)
    if learner.human:
        human = f"human-{learner.human:g}"
        folder = write_share(benchmark.refer / TRAINED_ON, learner.human, benchmark.out / "inputs" / human)
        imported = (str(folder), str(benchmark.images), benchmark.at("runs", human), "--format=refer")
        yield Step(f"import {human}", ("import", *imported))
        runs = (*runs, "--human", benchmark.at("runs", human)) if runs else (benchmark.at("runs", human),)
    chosen = set_words(*_candidates(benchmark, learner), *learner.training, *benchmark.training)
    words = (*runs, "--out", benchmark.at("models", name), "--preset", benchmark.student, "--resume", *chosen)
    if learner.kind == "segmenter":
        yield Step(f"train {name}", words, load=load_segmenter_config, module=_SEGMENTER)
    else:
        yield Step(f"train {name}", ("train", "student", *words), load=_load_chooser)


def _load_chooser(*given: Any) -> object:
    return load_chooser_config(*given).candidates.run_config()


def _candidates(benchmark: Benchmark, learner: Learner) -> tuple[str, ...]:
    """A chooser's masks are those of the annotation by rules: a table of instances has no test images."""
    if learner.kind == "segmenter":
        return ()
    cache = benchmark.at("candidates")
    words = {"preset": benchmark.preset, "assignments": _settings(benchmark, "rules"), "cache": cache}
    return (f"candidates={json.dumps(words)}",)


def _export(benchmark: Benchmark, form: str) -> Step:
    place = benchmark.at("exports", form)
    dataset = (f"--dataset={TRAINED_ON}",) if form == "cris" else ()
    words = ("export", benchmark.at("runs", "main"), place, "--format", form, "--overwrite", *dataset)
    return Step(f"export {form}", words, Path(f"{place}.txt"))
