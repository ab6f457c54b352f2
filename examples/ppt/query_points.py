"""Draws what every query of a trained PPT answers: its points, its mask, its confidence (figure 3 of the paper)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from PIL import Image

from pseudoris.training.evaluation.held_out import HeldOutExpressions, ImageQuestion
from pseudoris.training.learning.mask_overlay import draw_overlay
from pseudoris.training.metrics import ious_of, pixel_counts
from pseudoris.training.ppt.ppt_learner import PointAnswer, PointLearner, draw_answer, load_ppt
from pseudoris.training.ppt.recipes.recipe_texts import names_a_side

_PAPER: Final = (250, 250, 248)
_PANEL_PX: Final = 320
_GAP_PX: Final = 8


def draw_queries(path: Path, model: Path, truth: str, split: str, *, count: int) -> list[list[str]]:
    """Write a picture, a line an expression: the truth, the answer, and all other queries, the surest first.

    Of each of the first images one expression is asked: the first that names a side, or the first of all.

    Returns:
        Of each expression: text, queries, confidence of the answer, its IoU, the highest IoU of any query.
    """
    learner = load_ppt(model, "cuda" if torch.cuda.is_available() else "cpu")
    questions, lines, told = HeldOutExpressions(truth, splits=[split]), [], []
    for image in questions.images[:count]:
        question = questions.question(image)
        place = next((at for at, text in enumerate(question.texts) if names_a_side(text)), 0)
        text, mask = question.texts[place], question.masks[place]
        answers = all_queries(learner, question, text)
        ious = ious_of(pixel_counts(answers.logits > 0, mask.expand(len(answers.logits), -1, -1)))
        named = [f"answer to: {text}", *(f"query {at}" for at in range(2, len(ious) + 1))]
        drawn = [draw_answer(question.image, _only(answers, at), title) for at, title in enumerate(named)]
        lines.append([draw_overlay(question.image, mask, f"truth of: {text}"), *drawn])
        told.append([text, f"{len(ious)}", *(f"{x:.2f}" for x in (answers.confidences[0], ious[0], ious.max()))])
    _grid(lines).save(path)
    return told


@torch.no_grad()
def all_queries(learner: PointLearner, question: ImageQuestion, text: str) -> PointAnswer:
    """Return what all K queries answer to one expression, the most confident first."""
    features = learner.encoders.encode([question.image_key], [question.image], [text])
    found = learner.module.predictions(features)
    order = found.prompts.confidence_logits[0].argsort(descending=True)
    width, height = (int(side) for side in features.sam.input_sizes[0].tolist())
    size = (int(question.image.shape[1]), int(question.image.shape[2]))
    logits = learner.encoders.on_image(found.mask_logits[0, order].float(), size, (height, width))
    prompts = (found.prompts.points_xy, found.prompts.label_logits > 0, found.prompts.confidence_logits.sigmoid())
    return PointAnswer(logits.cpu(), *(each[0, order].cpu() for each in prompts))


def _only(answers: PointAnswer, at: int) -> PointAnswer:
    parts = (answers.logits, answers.points_xy, answers.is_positive, answers.confidences)
    return PointAnswer(*(each[at : at + 1] for each in parts))


def _grid(lines: list[list[Image.Image]]) -> Image.Image:
    """A line a row; all panels have one width."""
    resample = Image.Resampling.LANCZOS
    rows = [
        [each.resize((_PANEL_PX, each.height * _PANEL_PX // each.width), resample) for each in row] for row in lines
    ]
    heights = [max(each.height for each in row) + _GAP_PX for row in rows]
    whole = Image.new("RGB", (max(map(len, rows)) * (_PANEL_PX + _GAP_PX), sum(heights)), _PAPER)
    for number, row in enumerate(rows):
        for column, each in enumerate(row):
            whole.paste(each, (column * (_PANEL_PX + _GAP_PX), sum(heights[:number])))
    return whole
