"""RefCOCO, RefCOCO+ and RefCOCOg in one command, for whoever has the data and the weights.

    python -m examples.refcoco REFER train2014 OUT [--preset paper] [--kind segmenter] [--set KEY=VALUE ...]

REFER holds refcoco, refcoco+ and refcocog, each with refs(…).p and instances.json. The command leaves out the images of
all val and test splits, annotates the rest of train2014, trains the student on the annotation, evaluates it on every
split by oIoU, mIoU and P@k, and writes OUT/refcoco.md: one table beside published figures, with hours and memory.
Interrupted, the same command goes on. Other settings for the same OUT are refused by name. The segmenter draws masks,
as the published models do; a chooser answers with one of the masks that the annotation's SAM proposes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from examples.refcoco.refer_splits import ReferSplit, find_splits
from examples.refcoco.results_table import MEANINGLESS, as_markdown
from examples.step_log import StepLog, run_pseudoris
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import check_identity, read_header, require_header
from pseudoris.store.runs.stored_exclusions import stored_exclusions
from pseudoris.training.exclusions import read_exclusions

_RANDOM: Final = "random:"


@dataclass(frozen=True, slots=True)
class Benchmark:
    """The folders and settings of a benchmark.

    Attributes:
        refer: Holds the REFER datasets.
        images: train2014.
        out: Gets all that is written.
        preset: Of the annotation; with `settings` as words of `--set`.
        kind: Of the student: segmenter or chooser.
        student: Preset of the student; with `training` as words of `--set`.
    """

    refer: Path
    images: Path
    out: Path
    preset: str
    settings: Sequence[str]
    kind: Literal["segmenter", "chooser"]
    student: str
    training: Sequence[str]

    @property
    def annotation(self) -> Path:
        """The run that is trained on."""
        return self.out / "annotation"

    @property
    def model(self) -> Path:
        """The training's folder."""
        return self.out / self.kind

    def truth(self, split: ReferSplit) -> Path:
        """Return where a split is imported to."""
        return self.out / "truth" / split.name.replace("/", "-")

    def result(self, split: ReferSplit) -> Path:
        """Return the file of a split's figures."""
        return self.out / "results" / self.kind / f"{split.name.replace('/', '-')}.json"

    @property
    def candidates(self) -> Path | None:
        """Where a chooser keeps the masks of images, for all splits."""
        return self.out / "candidates" if self.kind == "chooser" else None

    @property
    def training_words(self) -> list[str]:
        """What `--set` of the training gets; a chooser's masks are those of the annotation's preset and settings."""
        if self.kind == "segmenter":
            return list(self.training)
        candidates = {"preset": self.preset, "assignments": list(self.settings), "cache": str(self.candidates)}
        return [f"candidates={json.dumps(candidates)}", *self.training]


def main(
    refer: Annotated[Path, typer.Argument(help="Folder of refcoco, refcoco+ and refcocog.", exists=True)],
    images: Annotated[Path, typer.Argument(help="Folder train2014.", exists=True)],
    out: Annotated[Path, typer.Argument(help="Folder for everything that is written.")],
    preset: Annotated[str, typer.Option(help="Of the annotation: paper, base or tiny.")] = "paper",
    settings: Annotated[list[str] | None, typer.Option("--set", help="A setting of the annotation.")] = None,
    kind: Annotated[Literal["segmenter", "chooser"], typer.Option(help="Of the student.")] = "segmenter",
    student: Annotated[str, typer.Option(help="Preset of the student: vit-b-16 or tiny.")] = "vit-b-16",
    training: Annotated[list[str] | None, typer.Option("--train-set", help="A setting of the student.")] = None,
) -> None:
    """Annotate, train and evaluate; the same command goes on where an interrupted one stopped."""
    benchmark = Benchmark(refer, images, out, preset, settings or (), kind, student, training or ())
    try:
        _run(benchmark, load_config(preset, None, settings or ()))
    except ConfigError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


def _run(benchmark: Benchmark, config: RunConfig) -> None:
    splits = find_splits(benchmark.refer)
    log = StepLog(benchmark.out / "steps")
    _check_made(benchmark, config, log)
    log.step("annotate", lambda: _annotate(benchmark))
    log.step(f"train {benchmark.kind}", lambda: _train(benchmark))
    for split in splits:
        log.step(f"evaluate {benchmark.kind} {split.name}", lambda split=split: _evaluate(benchmark, split))  # type: ignore[misc]
    figures = {split.name: json.loads(benchmark.result(split).read_text(encoding="utf-8")) for split in splits}
    # What made the figures, not what this call names.
    made_with = require_header(RunLocation.open(str(benchmark.annotation))).config
    page = as_markdown(figures, log.records(), notes=[MEANINGLESS] if _is_random(made_with) else [])
    (benchmark.out / "refcoco.md").write_text(page, encoding="utf-8")
    (benchmark.out / "refcoco.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    typer.echo(page)


def _check_made(benchmark: Benchmark, config: RunConfig, log: StepLog) -> None:
    """Refuse an OUT that something else made: a finished step is known by its name alone."""
    # Before: what is wrong with REFER is not wrong with OUT.
    held_out = frozenset[str]().union(*read_exclusions([str(benchmark.refer)]).values)
    try:
        _check_annotation(benchmark, config, held_out, is_finished=log.read("annotate").is_finished)
        _check_training(benchmark, is_finished=log.read(f"train {benchmark.kind}").is_finished)
    except ConfigError as error:
        raise ConfigError(
            f"{benchmark.out} holds steps that were made otherwise. Give what made them, or another OUT.\n{error}"
        ) from None


def _check_annotation(benchmark: Benchmark, config: RunConfig, held_out: frozenset[str], *, is_finished: bool) -> None:
    location = RunLocation.open(str(benchmark.annotation))
    header = require_header(location) if is_finished else read_header(location)
    if header is None:
        return
    check_identity(header, header.identity.model_copy(update={"method": config.method()}))
    # REFER may have got another dataset since, whose images were annotated.
    if missing := held_out.difference(*stored_exclusions(location, header).values):
        raise ConfigError(
            f"{benchmark.annotation} does not exclude {len(missing):,} of the images that {benchmark.refer} holds out, "
            f"such as {min(missing)}"
        )


def _check_training(benchmark: Benchmark, *, is_finished: bool) -> None:
    if not (is_finished or benchmark.model.is_dir()):
        return
    # Imported here: torch and the student are not needed before.
    from pseudoris.training.chooser.chooser_config import load_chooser_config
    from pseudoris.training.learning.checkpoint_folder import TrainingFolder
    from pseudoris.training.student.student_config import load_student_config

    folder = TrainingFolder(benchmark.model)
    saved = folder.settings()
    if saved is not None:
        load = load_chooser_config if benchmark.kind == "chooser" else load_student_config
        folder.begin({**saved, "config": load(benchmark.student, None, benchmark.training_words).decisive()})
    elif is_finished:
        raise ConfigError(f"there is no training in {benchmark.model}")


def _annotate(benchmark: Benchmark) -> None:
    words = [f"--set={each}" for each in benchmark.settings]
    # All val and test splits together: the datasets share images.
    exclude = ["--exclude", str(benchmark.refer)]
    run_pseudoris("annotate", benchmark.images, benchmark.annotation, "--preset", benchmark.preset, *exclude, *words)


def _train(benchmark: Benchmark) -> None:
    words = [f"--set={each}" for each in benchmark.training_words]
    student = ["--kind", benchmark.kind, "--preset", benchmark.student, "--resume", *words]
    run_pseudoris("train", "student", benchmark.annotation, "--out", benchmark.model, *student)


def _evaluate(benchmark: Benchmark, split: ReferSplit) -> None:
    truth = benchmark.truth(split)
    chosen = ["--split", split.split, "--split-by", split.split_by]
    run_pseudoris("import", split.folder, benchmark.images, truth, "--format", "refer", *chosen)
    # Imported here: torch and the student are not needed before.
    from pseudoris.training.learning.evaluator import HeldOutExpressions, evaluate, named_figures
    from pseudoris.training.student.student_training import load_student

    figures = evaluate(
        load_student(benchmark.model, cache=benchmark.candidates), HeldOutExpressions(str(truth))
    ).figures()
    _write(benchmark.result(split), {"expressions": figures.num_expressions, **named_figures(figures)})


def _write(path: Path, figures: Mapping[str, float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def _is_random(config: RunConfig) -> bool:
    stages = (config.masks, config.captions, config.filtering)
    return any(stage.weights.uri.startswith(_RANDOM) for stage in stages)


if __name__ == "__main__":
    typer.run(main)
