"""Draws the predictions of a trained PPT.

    python -m evidence.experiments.ppt.prediction_picture docs/records/appendix/ppt-predict.jpg
        --model TRAINING --val RUN

Of each of the first images that have one, the first expression that names a place, of an object with another of its
category beside it: no answer is chosen by how it came out. The referent's true outline is blue.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import torch
import typer
from PIL import Image, ImageDraw, ImageFont

from pseudoris.synthworld.attributes import CATEGORIES
from pseudoris.training.evaluation.held_out import HeldOutExpressions, ImageQuestion
from pseudoris.training.metrics import ious_of, pixel_counts
from pseudoris.training.ppt.ppt_learner import PointLearner, draw_answer, load_ppt
from pseudoris.training.ppt.recipes.recipe_texts import names_a_side

_PAPER, _INK = (250, 250, 248), (20, 20, 20)
_GAP_PX: Final = 8
_TITLE_PX: Final = 26
_WIDTH_PX: Final = 320


def main(
    path: Annotated[Path, typer.Argument(help="The picture, JPEG.")],
    model: Annotated[Path, typer.Option(help="--out of `pseudoris train ppt`.")],
    val: Annotated[str, typer.Option(help="A run or import whose expressions are asked.")],
    columns: Annotated[int, typer.Option(min=1)] = 4,
    rows: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Write a picture of a few answers, and print the IoU of each."""
    torch.set_num_threads(1)
    learner, questions = load_ppt(model), HeldOutExpressions(val)
    panels = []
    for question, place in asked(questions):
        panels.append(_panel(learner, question, place))
        if len(panels) == columns * rows:
            break
    width, height = (max(getattr(panel, name) for panel in panels) + _GAP_PX for name in ("width", "height"))
    whole = Image.new("RGB", (columns * width, -(-len(panels) // columns) * height), _PAPER)
    for number, panel in enumerate(panels):
        whole.paste(panel, (number % columns * width, number // columns * height))
    whole.save(path, quality=85, optimize=True)


def asked(questions: HeldOutExpressions) -> Iterator[tuple[ImageQuestion, int]]:
    """Yield, of each image that has one, a question and the place of an expression in it."""
    for question in questions:
        masks_of: defaultdict[str, set[str]] = defaultdict(set)
        categories = [_category(text) for text in question.texts]
        for category, mask in zip(categories, question.mask_ids, strict=True):
            masks_of[category].add(mask)
        for place, text in enumerate(question.texts):
            if names_a_side(text) and categories[place] and len(masks_of[categories[place]]) > 1:
                yield question, place
                break


def _category(text: str) -> str:
    """The first category that a text names: its head, in these sentences."""
    words = text.split()
    named = [(words.index(each), each) for each in CATEGORIES if each in words]
    return min(named)[1] if named else ""


def _panel(learner: PointLearner, question: ImageQuestion, place: int) -> Image.Image:
    text, truth = question.texts[place], question.masks[place]
    answer = learner.predict(question.image_id, question.image, [text])
    iou = float(ious_of(pixel_counts(answer.logits[0] > 0, truth))[0])
    typer.echo(f"{iou:.2f}  {float(answer.confidences[0]):.2f}  {text}")
    shown = draw_answer(question.image, answer, text, truth)
    shown = shown.resize((_WIDTH_PX, round(shown.height * _WIDTH_PX / shown.width)), Image.Resampling.LANCZOS)
    panel = Image.new("RGB", (shown.width, shown.height + _TITLE_PX), _PAPER)
    panel.paste(shown, (0, 0))
    ImageDraw.Draw(panel).text((6, shown.height), f"IoU {iou:.2f}", fill=_INK, font=ImageFont.load_default(15))
    return panel


if __name__ == "__main__":
    typer.run(main)
