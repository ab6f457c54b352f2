"""The tables of Pseudo-RIS as data, and the commands that make them, in order; each stands once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from evidence.experiments.segmenter.segmenter_config import load_segmenter_config
from examples.pseudo_ris.inputs import SEEN, UNSEEN, write_phrasecut, write_share
from examples.refer_splits import find_datasets
from examples.step_log import Step, set_words
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config_layers import load_config
from pseudoris.training.chooser.chooser_config import load_chooser_config

_UNFILTERED: Final = "data.is_kept_only=false"
SHARES: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Annotation:
    """A run over the training images.

    Attributes:
        settings: Words of `annotate --set`, over those that the user gives.
        refilter: Words of `refilter`, if it is the main annotation under another rule.
    """

    settings: tuple[str, ...] = ()
    refilter: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Learner:
    """A row of a table.

    Attributes:
        title: In the table.
        annotation: Name of what it learns from; None learns from human annotation alone.
        kind: Whether it draws masks (`evidence.experiments.segmenter`) or chooses one (`train student`).
        training: Words of `--set` of its training, before those that the user gives.
        human: Share of the human references that it learns from.
        needs: What must be at hand; such a row is only run if it is named.
    """

    title: str
    annotation: str | None = "main"
    kind: Literal["segmenter", "chooser"] = "segmenter"
    training: tuple[str, ...] = ()
    human: float = 0.0
    needs: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """One table or figure of the paper.

    Attributes:
        title: Of the page.
        learners: Names of `LEARNERS`, a row each.
        truth: What is asked: REFER's splits that end like this ("" takes all that are held out), or PhraseCut.
        notes: What a reader must know.
    """

    title: str
    learners: tuple[str, ...]
    truth: str = ""
    notes: tuple[str, ...] = ()


def _open_clip(stage: str, name: str, tag: str) -> tuple[str, ...]:
    return (f"{stage}.architecture={name}", f"{stage}.weights.uri=open_clip:{name}/{tag}")


ANNOTATIONS: Final[Mapping[str, Annotation]] = {
    "main": Annotation(),
    "nucleus": Annotation(("captions.sampling.is_distinctive=false",)),
    "rules": Annotation(("masks.prior.kind=none",)),
    "captioner-b": Annotation(_open_clip("captions", "coca_ViT-B-32", "laion2b_s13b_b90k")),
    "captioner-coco": Annotation(_open_clip("captions", "coca_ViT-L-14", "mscoco_finetuned_laion2b_s13b_b90k")),
    "clip-vit": Annotation(_open_clip("filtering", "ViT-B-32-quickgelu", "openai")),
    "uniqueness": Annotation(refilter=("--tau", "0", "--keep", "uniqueness > 1")),
    "correctness": Annotation(refilter=("--tau", "0", "--keep", "correctness > 0.2")),
    **{f"tau-{tau}": Annotation(refilter=("--tau", tau)) for tau in ("0.9", "1.1", "1.2")},
}

_WEIGHTS: Final = "`--row` with its weights: `pseudoris weights get` their uri, or `--set ROW:KEY=VALUE` for your own"
LEARNERS: Final[Mapping[str, Learner]] = {
    "main": Learner("Pseudo-RIS, our segmenter"),
    "chooser": Learner("Pseudo-RIS, our chooser among SAM's masks", kind="chooser"),
    "beam": Learner("naive captions: beam search", training=(_UNFILTERED, 'data.decoders=["beam"]')),
    "nucleus": Learner("+ sampling without contrast", "nucleus", training=(_UNFILTERED,)),
    "distinctive": Learner("+ distinctive sampling", training=(_UNFILTERED,)),
    "nucleus-filtered": Learner("sampling without contrast, filter", "nucleus"),
    "uniqueness": Learner("filter by uniqueness alone, > 1", "uniqueness"),
    "correctness": Learner("filter by correctness alone, > 0.2", "correctness"),
    "kept-alone": Learner("filter; masks without a kept caption are left out", training=("data.draw=distinct",)),
    **{f"tau-{tau}": Learner(f"filter, τ = {tau}", f"tau-{tau}") for tau in ("0.9", "1.1", "1.2")},
    "rules": Learner("SAM's masks by rules, without CutLER's instances", "rules"),
    "captioner-b": Learner("captioner: CoCa ViT-B/32", "captioner-b", needs=_WEIGHTS),
    "captioner-coco": Learner("captioner: CoCa tuned on MS-COCO", "captioner-coco", needs=_WEIGHTS),
    "clip-vit": Learner("filter by CLIP ViT-B/32", "clip-vit", needs=_WEIGHTS),
    "noun-phrases": Learner("texts: noun phrases alone", None, needs="a setting that does not exist here"),
    **{f"semi-{share:g}": Learner(f"ours and {share:.0%} human", human=share) for share in SHARES},
    **{f"human-{share:g}": Learner(f"{share:.0%} human alone", None, human=share) for share in SHARES},
}
TABLES: Final[Mapping[str, Table]] = {
    "main": Table("RefCOCO, RefCOCO+, RefCOCOg", ("main", "chooser")),
    "phrasecut": Table(
        "PhraseCut, cross-domain",
        ("main", "chooser"),
        "phrasecut",
        (
            "`seen`: phrases whose category REFER's instances.json names; `unseen`: all others. The paper's own list "
            "of unseen classes is not at hand. Several instances of a phrase are asked for together.",
        ),
    ),
    "semi": Table(
        "Semi-supervised (figure 4)",
        ("main", *(f"{kind}-{share:g}" for share in SHARES for kind in ("semi", "human"))),
        "/val",
        ("Shares are of the human references of RefCOCO+'s split train; a larger share holds a smaller one.",),
    ),
    "ablations": Table(
        "Ablations",
        (
            *("beam", "nucleus", "distinctive", "nucleus-filtered", "main", "kept-alone", "uniqueness", "correctness"),
            *("tau-0.9", "tau-1.1", "tau-1.2", "rules", "captioner-b", "captioner-coco", "clip-vit", "noun-phrases"),
        ),
        "/val",
    ),
}


# Whose train images are annotated, and whose human references are mixed in.
TRAINED_ON: Final = "refcoco+"
# For the trainers of the paper; the other one is what the authors' own loader reads.
EXPORTS: Final = ("cris", "pseudo-ris-csv")
PHRASECUT: Final = "phrasecut"
_SEGMENTER: Final = "evidence.experiments.segmenter"


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
