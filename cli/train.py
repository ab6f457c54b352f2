"""`pseudoris train` and `predict`: trains PPT (curriculum point prompting) or a student on runs, and asks it for masks.

Called by `main`; `evidence/experiments/segmenter` uses the bar and the view. With several processes only the first one
prints. After an interrupt the last checkpoint stays, and `--resume` continues from it. `predict` checks the names of
its pictures before it loads the checkpoint, and never overwrites IMAGE.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console, RenderableType
from rich.table import Table

from pseudoris.cli import console, formats, options
from pseudoris.cli.options import argument, check_file, option, training_folder
from pseudoris.cli.progress import INTERRUPTED, Bar, bar
from pseudoris.primitives.errors import ConfigError, ImageError
from pseudoris.primitives.untrusted import printable
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.shard import clean_text

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from pseudoris.training.learning import FitSummary, StepReport
    from pseudoris.training.ppt.curriculum import Round
    from pseudoris.training.ppt.ppt_config import Source
    from pseudoris.training.ppt.ppt_learner import PointAnswer
    from pseudoris.training.ppt.ppt_training import PptSummary

_Runs = list[str] | None
DEFAULT_OUT = Path("overlay.png")
# This text is printed if no threshold was fitted. It says what `Choice.is_absent` does then.
_NOT_FITTED: Final = (
    'Without --val no threshold for "not here" is fitted: predict says it only if it is likelier than every mask. '
    "Give --val a run of development images with absences."
)
Seed = Annotated[int | None, option("Same as --set training.seed=….", min=0)]
Resume = Annotated[bool, option("--resume", "Continue the training in --out; start one if there is none.")]

app = typer.Typer(help="Train a model on runs: the student, or PPT.", no_args_is_help=True)


@app.command("ppt")
def ppt(
    out: Annotated[str, option("--out", "Local folder for the training. Each round has a folder in it.")],
    d_sem: Annotated[_Runs, option("--d-sem", "Run of `ppt objects`.")] = None,
    d_ref: Annotated[_Runs, option("--d-ref", "Run of `ppt compose`.")] = None,
    h: Annotated[_Runs, option("--h", "Run of `ppt pairs`.")] = None,
    annotated: Annotated[_Runs, option("--annotated", "Any other run or import. It is added to H_sem.")] = None,
    val: Annotated[str | None, option("--val", "Run or import to evaluate the model on after each phase.")] = None,
    preset: Annotated[str, option("--preset", "tiny (embedded models, CPU) or paper.")] = "tiny",
    config_file: options.ConfigFile = None,
    assignments: Annotated[list[str] | None, options.set_one("curriculum.epochs_factor=0.5")] = None,
    seed: Seed = None,
    resume: Resume = False,
    plugins: options.Plugins = None,
) -> None:
    """Train PPT, weakly supervised, in phases.

    Give at least one of --d-sem, --d-ref, --h and --annotated. Each can be repeated. A phase uses
    only the data that is given.
    """
    from pseudoris.training.learning import open_fabric
    from pseudoris.training.ppt.curriculum import SourceRuns
    from pseudoris.training.ppt.ppt_config import load_ppt_config
    from pseudoris.training.ppt.ppt_training import PptRequest, Reports, train_ppt

    options.load_plugins(plugins)
    runs = SourceRuns(tuple(d_sem or ()), tuple(d_ref or ()), tuple(h or ()), tuple(annotated or ()))
    folder = training_folder(out, filter(None, (*runs.d_sem, *runs.d_ref, *runs.h, *runs.annotated, val)))
    config = load_ppt_config(preset, config_file, options.words(assignments, {"training.seed": seed}))
    fabric = open_fabric(config.training)

    def on_select(each: Round, decided: int, pairs: int) -> None:
        console.report("select", f"{each.name}: {decided:,} of {pairs:,} undecided pairs now have a referent", "green")

    def train(shown: Bar) -> RenderableType:
        request = PptRequest(config, runs, folder, val=val, is_resuming=resume)
        _, summary = train_ppt(request, fabric, Reports(_show_plan, partial(show_step, shown), on_select))
        sizes = config.generator
        blocks = f"{len(sizes.image_blocks)} stages, {sizes.num_queries} queries of {sizes.num_points} points"
        table = _trained(summary, formats.format_seconds(summary.wall_s), f": width {sizes.width}, {blocks}")
        for phase, figures in summary.phases.items():
            table.add_row(phase, _figures_text(figures))
        return table

    raise typer.Exit(_run(train, folder, is_first=fabric.is_global_zero, is_resuming=resume))


@app.command("student")
def student(
    runs: Annotated[list[str], argument("RUN...", "Folders or urls of runs or imports.")],
    out: Annotated[str, option("--out", "Local folder for the checkpoint, logs and summary.")],
    val: Annotated[
        str | None,
        option(
            "--val", 'Run or import to evaluate the model on at the end, and, with data.none, to choose "not here".'
        ),
    ] = None,
    human: Annotated[
        str | None,
        option("--human", "Import of human annotation to mix in; see data.human_fraction and data.human_share."),
    ] = None,
    preset: Annotated[str, option("--preset", "tiny (embedded towers, CPU) or vit-b-16.")] = "tiny",
    config_file: options.ConfigFile = None,
    assignments: Annotated[list[str] | None, options.set_one("model.width=96")] = None,
    steps: Annotated[int | None, option("Total steps; the warm-up is at most a tenth of them.", min=1)] = None,
    epochs: Annotated[int | None, option("Passes over the masks, instead of --steps.", min=1)] = None,
    seed: Seed = None,
    resume: Resume = False,
    plugins: options.Plugins = None,
) -> None:
    """Train a student, a supervised model of referring image segmentation, on runs.

    With `--val` it is evaluated on held-out expressions at the end.
    """
    from pseudoris.training.chooser.chooser_config import load_chooser_config
    from pseudoris.training.chooser.chooser_training import StudentRequest, train_student
    from pseudoris.training.learning import open_fabric

    options.load_plugins(plugins)
    folder = training_folder(out, filter(None, (*runs, val, human)))
    if steps is not None and epochs is not None:
        raise typer.BadParameter("Give --steps or --epochs, not both.")
    config = load_chooser_config(preset, config_file, options.words(assignments, {"training.seed": seed}))
    if steps is not None:
        config = config.model_copy(update={"training": config.training.with_steps(steps)})
    fabric = open_fabric(config.training)
    if config.answers_none and val is None and fabric.is_global_zero:
        console.note(_NOT_FITTED)

    def train(shown: Bar) -> RenderableType:
        request = StudentRequest(config, runs, folder, val=val, human=human, num_epochs=epochs, is_resuming=resume)
        on_image = shown.named("proposing masks")
        _, summary = train_student(request, fabric, on_step=partial(show_step, shown), on_image=on_image)
        return training_view(summary)

    raise typer.Exit(_run(train, folder, is_first=fabric.is_global_zero, is_resuming=resume))


def _run(train: Callable[[Bar], RenderableType], out: Path, *, is_first: bool, is_resuming: bool) -> int:
    """Train, and show what `train` returns; only the first process says anything. Return the exit code."""
    from pseudoris.training.learning import TrainingFolder

    # A folder without a training is no error: a script that restarts after a kill always passes `--resume`. It is
    # reported, because a mistyped folder looks the same.
    if is_first and is_resuming and not TrainingFolder(out).is_begun:
        console.note(f"{out} has no training to resume. A new one begins.")
    try:
        with training_bar(is_shown=is_first) as shown:
            view = train(shown)
    except KeyboardInterrupt:
        if TrainingFolder(out).is_begun:
            console.report("stopped", f"The last checkpoint is in {out}. Use --resume to continue from it.", "yellow")
        else:
            console.report_stopped("interrupted before the first step: nothing is kept")
        return INTERRUPTED
    if is_first:
        console.stdout.print(view)
        ask = formats.command("predict", "IMAGE", "the small star on the left", "--model", str(out))
        then = {"ask": ask, "curves": shlex.join(["tensorboard", "--logdir", str(out)])}
        console.stdout.print(formats.path_lines("next", then), soft_wrap=True)
    return 0


def training_bar(*, is_shown: bool) -> AbstractContextManager[Bar]:
    """Return the bar of a training; only the first process shows it."""
    amount = (lambda done, total: f"{done:,} of {total:,}") if is_shown else None
    return bar("reading the runs", amount=amount, console=console.stderr if is_shown else Console(quiet=True))


def show_step(shown: Bar, step: StepReport) -> None:
    """Show a step on the bar of a training, and the figures of a validation as a line."""
    loss = step.values.get("train/loss")
    shown(step.step, step.num_steps, "validating" if loss is None else f"training, loss {loss:.3f}")
    if loss is None and step.values:
        shown.print(f"step {step.step}: {_figures_text(step.values)}")


def _show_plan(rounds: Sequence[Round], num_pairs: dict[Source, int]) -> None:
    from pseudoris.training.ppt.curriculum import describe

    phases = describe(rounds, num_pairs)
    rows = ((name, f"{data}: {pairs:,} pairs per epoch, {steps:,} steps") for name, data, pairs, steps in phases)
    console.stdout.print(formats.facts_table("curriculum", rows))


def training_view(summary: FitSummary) -> RenderableType:
    """Return how a training of one model ended as a table."""
    validating = f", of which validation {formats.format_seconds(summary.validation_s)}" if summary.figures else ""
    table = _trained(summary, f"{formats.format_seconds(summary.wall_s)}{validating}")
    if summary.num_cut_texts:
        cut = f"{summary.num_cut_texts:,} longer than CLIP's {summary.context_length} tokens, cut there"
        table.add_row("texts", f"{cut}: masks whose texts differ only behind it get equal tokens")
    for name, value in summary.figures.items():
        table.add_row(_figure_title(name), f"{value:.3f}")
    return table


def _trained(summary: FitSummary | PptSummary, time: str, sizes: str = "") -> Table:
    kinds = dict.fromkeys(note.partition(":")[0] for note in summary.circularity)
    first = [("validation", f"{kind}: in full in summary.json (circularity)") for kind in kinds]
    steps = ("steps", f"{summary.num_steps:,}, {summary.num_steps_now:,} of them now")
    parameters = ("parameters", f"{summary.num_parameters:,} trained{sizes}")
    return formats.facts_table("trained", [*first, steps, ("time", time), parameters])


def _figures_text(figures: Mapping[str, float]) -> str:
    named = {name.removeprefix("val/"): value for name, value in figures.items()}
    return ", ".join(f"{_figure_title(name)} {value:.3f}" for name, value in named.items())


def _figure_title(name: str) -> str:
    """Return a figure's name as papers write it: mIoU, oIoU, P@0.5."""
    if name.startswith("p") and name[1:].isdigit():
        return f"P@{int(name[1:]) / 100:.1f}"
    titles = {"miou": "mIoU", "oiou": "oIoU", "giou": "gIoU", "n_acc": "N-acc.", "t_acc": "T-acc."}
    return titles.get(name, name)


def predict(
    image: Annotated[Path, argument("IMAGE", "An image file.")],
    text: Annotated[str, argument("TEXT", 'Text that describes one object: "the small dotted red circle".')],
    model: Annotated[Path, option("--model", "The --out of `pseudoris train`, or its checkpoint.")],
    out: Annotated[Path, option("--out", "Image to write: the mask on the image, the text below.")] = (DEFAULT_OUT),
    mask_out: Annotated[Path | None, option("--mask", "Also write the mask as a PNG of 0 and 255.")] = None,
) -> None:
    """Show which object of an image a text refers to, with a trained model.

    The model is a student or PPT. PPT also shows its points.
    """
    expression = clean_text(text)
    if not expression:
        raise ConfigError("The expression is empty. Describe the object to find.")
    _check_pictures(image, out, mask_out)
    import torch
    from PIL import Image as Pictures
    from torchvision.ops import masks_to_boxes

    from pseudoris.images.pixels import decode_upright
    from pseudoris.training.evaluation.held_out import pixels_of

    try:
        data = image.read_bytes()
        # The image is (3, H, W) uint8, upright.
        pixels = torch.from_numpy(decode_upright(data, pixels_of(model))).permute(2, 0, 1)
    except OSError as error:
        raise ConfigError(f"The image {image} cannot be read ({error.strerror}). Give a file.") from error
    except ImageError as error:
        raise ConfigError(f"The image {image} cannot be used: {error.message}") from error
    answer = _answered(model, sha256_hex(data), pixels, expression)
    mask = answer.mask
    _save(answer.picture, out)
    if mask_out is not None:
        _save(Pictures.fromarray(mask.numpy()).convert("L"), mask_out)
    table = formats.facts_table(printable(expression))
    if mask.any():
        table.add_row("pixels", f"{int(mask.sum()):,} of {mask.numel():,}, {float(mask.float().mean()):.1%}")
        x0, y0, x1, y1 = masks_to_boxes(mask[None])[0].int().tolist()
        table.add_row("box", f"{x0}, {y0}, {x1 + 1}, {y1 + 1}  (x0, y0, x1, y1)")
        table.add_row("certainty", answer.certainty)
    else:
        table.add_row("nothing found", answer.absence or "the mask is empty")
    for name, value in answer.facts:
        table.add_row(name, value)
    console.stdout.print(table)
    console.report("picture", str(out), "green", console=console.stdout)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a learner says: a mask (H, W) bool, how sure it is, its picture, and rows of its own for the table."""

    mask: torch.Tensor
    certainty: str
    picture: Image
    facts: Sequence[tuple[str, str]]
    absence: str = ""  # why the mask is empty, if the model says that the object is not in the image


def _answered(model: Path, image_id: str, pixels: torch.Tensor, expression: str) -> _Answer:
    from pseudoris.training.chooser.chooser_training import CHOOSER, load_student
    from pseudoris.training.learning.checkpoint_folder import read_settings
    from pseudoris.training.learning.mask_overlay import draw_overlay
    from pseudoris.training.ppt.ppt_learner import LEARNER as PPT
    from pseudoris.training.ppt.ppt_learner import load_ppt

    file, _, settings = read_settings(model)
    if settings.get("learner") == PPT:
        found = load_ppt(model).predict(image_id, pixels, [expression])
        return _of_points(found, pixels, expression)
    if settings.get("learner") != CHOOSER:
        raise ConfigError(f"{file} is not a checkpoint of a known model. Give the --out of `pseudoris train`.")
    student = load_student(model)
    choice = student.choose(image_id, pixels, [expression])
    mask, num_masks, absence = choice.chosen[0], len(choice.masks), ""
    certainty = f"{float(choice.probabilities[0].max()):.2f}, probability of this mask" if num_masks else ""
    facts = [("chosen among", f"{num_masks} masks that SAM proposes")]
    if choice.none is not None:
        bound = "if likelier than every mask" if choice.min_none is None else f"from {choice.min_none:.2f} on"
        share = f"{float(choice.none[0]):.2f}, probability that no mask is meant; the answer {bound}"
        if choice.is_absent[0]:
            absence = f"not here: {share}"
        else:
            facts.append(("not here", share))
    return _Answer(mask, certainty, draw_overlay(pixels, mask, expression), facts, absence)


def _of_points(answer: PointAnswer, pixels: torch.Tensor, expression: str) -> _Answer:
    from pseudoris.training.ppt.ppt_learner import draw_answer

    size = (pixels.shape[2], pixels.shape[1])
    points: dict[bool, list[str]] = {True: [], False: []}
    for xy, is_positive in zip(answer.points_xy[0].tolist(), answer.is_positive[0].tolist(), strict=True):
        points[is_positive].append(f"({xy[0] * size[0]:.0f}, {xy[1] * size[1]:.0f})")
    facts = [
        ("confidence", f"{float(answer.confidences[0]):.2f} (probability that this is the object)"),
        ("points inside", " ".join(points[True]) or "none"),
        ("points outside", " ".join(points[False]) or "none"),
    ]
    logits = answer.logits[0]
    mask = logits > 0
    inside = f"{float(logits.sigmoid()[mask].mean()) if mask.any() else 0:.2f}, mean probability inside"
    return _Answer(mask, inside, draw_answer(pixels, answer, expression), facts)


def _check_pictures(image: Path, out: Path, mask_out: Path | None) -> None:
    """Refuse pictures that cannot be written, or that would overwrite each other or the image."""
    from PIL import Image as Pictures

    if Pictures.registered_extensions().get(out.suffix.lower()) not in {"PNG", "JPEG", "WEBP"}:
        raise ConfigError(f"--out {out} must end in .png, .jpg or .webp.")
    # Only PNG is accepted, because a lossy format would write values other than 0 and 255.
    if mask_out is not None and mask_out.suffix.lower() != ".png":
        raise ConfigError(f"--mask {mask_out} must end in .png. Its pixels are 0 or 255.")
    written = {"--out": out} if mask_out is None else {"--out": out, "--mask": mask_out}
    for path in written.values():
        check_file(path)
    for (first, one), (second, other) in combinations({"IMAGE": image, **written}.items(), 2):
        if _is_same_file(one, other):
            raise ConfigError(f"{second} {other} would overwrite {first} {one}. Name another file.")


def _is_same_file(one: Path, other: Path) -> bool:
    """Return whether two paths lead to one file, which need not exist; links of either kind are followed."""
    try:
        return one.samefile(other)
    except OSError:
        return one.resolve() == other.resolve()


def _save(picture: Image, path: Path) -> None:
    try:
        picture.save(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror or error})") from error
