"""How large an ablation is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Sizes:
    """What a whole ablation is measured on.

    Attributes:
        objects: Object-centric images, D_sem.
        composed: Images of D_ref, as a multiple of those.
        texts_per_image: Of D_ref, at most.
        scenes: Training scenes with people's expressions: H, or annotated by the pipeline.
        val_scenes: Held-out scenes that are asked.
        epochs_factor: Of the paper's 10 + 30 + 10 epochs.
        num_seeds: Of the first five rows; the others have one.
        num_student_steps: Of the RIS student beside them.
    """

    objects: int
    composed: int
    texts_per_image: int
    scenes: int
    val_scenes: int
    epochs_factor: float
    num_seeds: int
    num_student_steps: int


# Chosen by what a step costs (docs/ppt.md), so that all of it takes less than an hour on two cores.
WHOLE: Final = Sizes(
    objects=240,
    composed=3,
    texts_per_image=4,
    scenes=120,
    val_scenes=100,
    epochs_factor=0.14,
    num_seeds=3,
    # The best for it of 300, 600 and 900: beyond, it learns a hundred scenes by heart.
    num_student_steps=300,
)
QUICK: Final = Sizes(
    objects=20,
    composed=1,
    texts_per_image=2,
    scenes=4,
    val_scenes=2,
    epochs_factor=0.02,
    num_seeds=1,
    num_student_steps=4,
)
