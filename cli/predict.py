"""`pseudoris predict`: shows the mask of an expression in one image, by a trained model. Called by `main`.

The model is a checkpoint of `pseudoris train`, of a student or of PPT (curriculum point prompting). The names of the
pictures are checked before the model is loaded, and IMAGE is never overwritten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pseudoris.cli.console import report, stdout
from pseudoris.cli.formats import facts_table
from pseudoris.cli.options import argument, check_file, option
from pseudoris.primitives.errors import ConfigError, ImageError
from pseudoris.primitives.untrusted import printable
from pseudoris.schemas.config import ImagesConfig
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.shard import clean_text

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from pseudoris.training.ppt.ppt_learner import PointAnswer

DEFAULT_OUT = Path("overlay.png")


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

    try:
        data = image.read_bytes()
        # The image is (3, H, W) uint8, upright.
        pixels = torch.from_numpy(decode_upright(data, ImagesConfig())).permute(2, 0, 1)
    except OSError as error:
        raise ConfigError(f"The image {image} cannot be read ({error.strerror}). Give a file.") from error
    except ImageError as error:
        raise ConfigError(f"The image {image} cannot be used: {error.message}") from error
    answer = _answered(model, sha256_hex(data), pixels, expression)
    mask = answer.mask
    _save(answer.picture, out)
    if mask_out is not None:
        _save(Pictures.fromarray(mask.numpy()).convert("L"), mask_out)
    table = facts_table(printable(expression))
    if mask.any():
        table.add_row("pixels", f"{int(mask.sum()):,} of {mask.numel():,}, {float(mask.float().mean()):.1%}")
        x0, y0, x1, y1 = masks_to_boxes(mask[None])[0].int().tolist()
        table.add_row("box", f"{x0}, {y0}, {x1 + 1}, {y1 + 1}  (x0, y0, x1, y1)")
        table.add_row("certainty", answer.certainty)
    else:
        table.add_row("nothing found", answer.absence or "the mask is empty")
    for name, value in answer.facts:
        table.add_row(name, value)
    stdout.print(table)
    report("picture", str(out), "green", console=stdout)


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
