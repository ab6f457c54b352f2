"""Which answers are drawn: those that ask for a place where one decides, whatever comes out."""

from __future__ import annotations

import torch

from experiments.ppt.prediction_picture import asked
from pseudoris.training.learning.evaluator import ImageQuestion


class _Scenes:
    """Stands in for the questions of a run: each scene has expressions of its masks."""

    def __init__(self, *scenes: list[tuple[str, str]]) -> None:
        self.scenes = {f"scene-{number}": scene for number, scene in enumerate(scenes)}
        self.image_ids = list(self.scenes)

    def of(self, image_ids):
        for image_id in image_ids:
            texts, masks = (list(each) for each in zip(*self.scenes[image_id], strict=True))
            pixels = torch.zeros(3, 8, 8, dtype=torch.uint8)
            yield ImageQuestion(
                image_id, pixels, texts, torch.zeros(len(texts), 8, 8, dtype=torch.bool), masks, image_id
            )


def test_a_place_is_asked_for_where_another_of_the_category_is_beside_it() -> None:
    scenes = _Scenes(
        # Alone in its category: a place decides nothing.
        [("the left star", "a"), ("the red heart", "b")],
        # No place is named.
        [("the red star", "a"), ("the green star", "b")],
        [("the red star", "a"), ("the star on the left", "b"), ("the right star", "a")],
        # Of the heart, which is alone; the star is what it lies beside.
        [("the heart left of the star", "a"), ("the red star", "b"), ("a green star", "c")],
    )
    found = [(question.image_id, question.texts[place]) for question, place in asked(scenes)]
    assert found == [("scene-2", "the star on the left")]
