"""The rows of PPT's tables as data, and the `pseudoris` commands that make them, in order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from examples.ppt.paper_rows import PAPER, TRAININGS, Training
from examples.refer_splits import ReferDataset, find_datasets
from examples.step_log import Step, set_words
from pseudoris.interchange.exclusions import TRAIN_SPLIT
from pseudoris.primitives.errors import ConfigError
from pseudoris.training.evaluation.answerers import CLIP_AND_SAM, NOUN, SENTENCE
from pseudoris.training.ppt.ppt_config import load_ppt_config
from pseudoris.training.ppt.recipes.recipe_config import load_recipe_config


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table.

    Attributes:
        title: In the table.
        model: A name of `pseudoris evaluate --model` that needs no training, or "".
        training: Else what is trained: other data, or other phases.
        phase: The phase of it whose end is asked.
    """

    title: str
    model: str = ""
    training: Training | None = None
    phase: str = ""


_OF_PAPER: Final = {row: (training, phase) for training in TRAININGS for phase, row in training.phases.items()}
FULL: Final = _OF_PAPER["5"][0]
_PPT: Final = Row("PPT", "", *_OF_PAPER["5"])
ABLATION: Final[Mapping[str, Row]] = {
    number: Row(f"{number}: {title}", "", *_OF_PAPER[number])
    if number in _OF_PAPER
    else Row(f"{number}: {title}", CLIP_AND_SAM)
    for number, (title, _) in PAPER.items()
}
TABLES: Final[Mapping[str, Mapping[str, Row]]] = {
    "tables": {
        "ppt": _PPT,
        "clip-sentence": Row("no training: CLIP among SAM's masks, whole text", SENTENCE),
        "clip-noun": Row("no training: CLIP among SAM's masks, first noun phrase", NOUN),
        "clip-sam": Row("no training: CLIP's response prompts SAM", CLIP_AND_SAM),
    },
    "ablation": ABLATION,
    "figure": {"ppt": _PPT},
}
TITLES: Final[Mapping[str, str]] = {
    "tables": "PPT: Tables 1 and 2",
    "ablation": "PPT: Table 3, the ablation on RefCOCO val",
    "figure": "PPT: Figure 3, the points of every query",
}


# What table 3 and the figure ask.
_DATASET: Final = "refcoco"
_SPLIT: Final = "val"
# Settings of the recipes alone; CLIP among SAM's masks has none of them.
_OF_RECIPES: Final = ("grounding.", "compose.", "pairs.")
# CLIP among SAM's masks, with the encoders of PPT: in `tiny` the CLIP of crops, for that of PPT knows scenes alone.
_CHOICES: Final = {
    "tiny": ("--preset=tiny",),
    "paper": (
        "--preset=base",
        "--set=filtering.architecture=ViT-B-16-quickgelu",
        "--set=filtering.weights.uri=open_clip:ViT-B-16-quickgelu/openai",
    ),
}


@dataclass(frozen=True, slots=True)
class Inputs:
    """The folders and settings of all tables.

    Attributes:
        refer: Holds the REFER datasets.
        images: train2014.
        objects: Object-centric images, a folder a class.
        out: Gets all that is written.
        preset: Of recipes and training: paper or tiny.
        settings: Words of `--set` of the recipes and of what is asked without training.
        training: Words of `--set` of the trainings.
        sample: So many object-centric images.
        names: CSV of the classes' names, if the folders are not named so.
    """

    refer: Path
    images: Path
    objects: Path
    out: Path
    preset: str = "paper"
    settings: Sequence[str] = ()
    training: Sequence[str] = ()
    sample: int = 2836
    names: Path | None = None

    @property
    def places(self) -> dict[str, Path]:
        """The folders by name."""
        return {"OUT": self.out, "REFER": self.refer, "IMAGES": self.images, "OBJECTS": self.objects}

    def at(self, *parts: str) -> str:
        """Return a place in OUT."""
        return str(self.out.joinpath(*parts))

    def model(self, dataset: Dataset, training: Training) -> Path:
        """Return the folder of a training."""
        return self.out / "models" / dataset.name / training.name

    def result(self, dataset: Dataset, row: str) -> Path:
        """Return the file of a row's figures."""
        return self.out / "results" / dataset.name / f"{row}-{'-'.join(dataset.asked)}.json"


@dataclass(frozen=True, slots=True)
class Dataset(ReferDataset):
    """A file of references whose texts of split train are learnt from, and of whose other splits some are asked."""

    asked: tuple[str, ...]


def datasets(inputs: Inputs, table: str) -> list[Dataset]:
    """Return what a table learns from and asks: all datasets, or RefCOCO's split val.

    Raises:
        ConfigError: There is no such split.
    """
    is_all = table == "tables"
    found = [
        Dataset(each.folder, each.split_by, each.splits, each.splits if is_all else (_SPLIT,))
        for each in find_datasets(inputs.refer)
        if is_all or (each.name == _DATASET and _SPLIT in each.splits)
    ]
    if not found:
        raise ConfigError(f"{inputs.refer} has no {_DATASET}/refs(unc).p with split {_SPLIT}: {table} is made of it.")
    return found


def plan(inputs: Inputs, table: str, rows: Sequence[str], chosen: Sequence[Dataset]) -> list[Step]:
    """Return the steps of rows of a table, each once; `chosen` is what `datasets` gives."""
    recipe = ("--preset", inputs.preset, *set_words(*inputs.settings))
    names = () if inputs.names is None else ("--names", str(inputs.names))
    sample = ("--sample", str(inputs.sample), *names)
    made = partial(Step, load=load_recipe_config)
    steps = [
        made("objects", ("ppt", "objects", str(inputs.objects), inputs.at("d_sem"), *sample, *recipe)),
        made("compose", ("ppt", "compose", inputs.at("d_sem"), inputs.at("d_ref"), *recipe)),
    ]
    for dataset in chosen:
        steps += [
            _import(inputs, dataset, "train", (TRAIN_SPLIT,)),
            _import(inputs, dataset, "truth", dataset.splits),
        ]
        pairs = (inputs.at("train", dataset.name), inputs.at("h", dataset.name))
        steps.append(made(f"pairs {dataset.name}", ("ppt", "pairs", *pairs, *recipe)))
        for name in rows:
            steps += _row(inputs, dataset, name, TABLES[table][name], is_evaluated=table != "figure")
    return list({step.name: step for step in steps}.values())


def _import(inputs: Inputs, dataset: Dataset, kind: str, splits: Sequence[str]) -> Step:
    of = ("--format=refer", f"--split-by={dataset.split_by}", *(f"--split={split}" for split in splits))
    words = ("import", str(dataset.folder), str(inputs.images), inputs.at(kind, dataset.name), *of)
    return Step(f"import {kind} {dataset.name}", words)


def _row(inputs: Inputs, dataset: Dataset, name: str, row: Row, *, is_evaluated: bool) -> Iterator[Step]:
    model, words = row.model, _untrained(inputs, row.model)
    if row.training is not None:
        yield _train(inputs, dataset, row.training)
        model, words = str(_asked(inputs.model(dataset, row.training), row.training, row.phase)), ()
    if is_evaluated:
        splits = ",".join(dataset.asked)
        asked = ("--truth", inputs.at("truth", dataset.name), "--split", splits, "--json")
        step = f"evaluate {name} {dataset.name} {splits}"
        yield Step(step, ("evaluate", "--model", model, *asked, *words), inputs.result(dataset, name))


def _untrained(inputs: Inputs, model: str) -> tuple[str, ...]:
    if model == CLIP_AND_SAM:
        return ("--preset", inputs.preset, *set_words(*inputs.settings))
    settings = [word for word in inputs.settings if not word.startswith(_OF_RECIPES)]
    return (*_CHOICES.get(inputs.preset, ()), *set_words(*settings))


def _train(inputs: Inputs, dataset: Dataset, training: Training) -> Step:
    runs = {"d_sem": inputs.at("d_sem"), "d_ref": inputs.at("d_ref"), "h": inputs.at("h", dataset.name)}
    given = (word for name in training.sources for word in (f"--{name.replace('_', '-')}", runs[name]))
    phases = json.dumps(training.curriculum().model_dump(mode="json")["phases"])
    # A row of the table is other phases; one's own come after.
    own = () if training.has_curriculum else (f"curriculum.phases={phases}",)
    words = ("--out", str(inputs.model(dataset, training)), "--preset", inputs.preset, "--resume")
    settings = set_words(*own, *inputs.training)
    step = f"train {training.name} {dataset.name}"
    return Step(step, ("train", "ppt", *given, *words, *settings), load=load_ppt_config)


def _asked(folder: Path, training: Training, phase: str) -> Path:
    """The folder of the last round of a phase: of the last phase that of the training."""
    names = [each.name for each in training.curriculum().phases]
    at = names.index(phase)
    return folder if at == len(names) - 1 else folder / f"{at + 1:02d}-{phase}"
