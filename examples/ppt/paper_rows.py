"""The rows of the paper's Table 3, as trainings of other data or other phases. Definitions: section 4.3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pseudoris.training.ppt.ppt_config import CurriculumConfig, PhaseConfig, Source

# "w/o CL": all that there is, from the beginning and for as long, with pseudo-masks as they were extracted.
_ALL: Final[tuple[Source, ...]] = ("d_sem", "d_ref", "h_sem", "h_ref")


@dataclass(frozen=True)
class Training:
    """One training of the table.

    Attributes:
        name: Of its folder.
        sources: What it is given.
        phases: The row that the figures after each of some phases are, by the phase's name.
        has_curriculum: Whether it goes through the phases.
    """

    name: str
    sources: Sequence[str]
    phases: dict[str, str]
    has_curriculum: bool = True

    def curriculum(self, epochs_factor: float = 1.0) -> CurriculumConfig:
        """Return its phases."""
        paper = CurriculumConfig(epochs_factor=epochs_factor)
        if self.has_curriculum:
            return paper
        epochs = sum(phase.epochs for phase in paper.phases)
        return CurriculumConfig(
            phases=(PhaseConfig(name="all", sources=_ALL, epochs=epochs),), epochs_factor=epochs_factor
        )


# Number, name and mIoU (RefCOCO val).
PAPER: Final[dict[str, tuple[str, float]]] = {
    "1": ("CLIP + SAM", 26.46),
    "2": ("Pt Prompt w/o IMG", 34.19),
    "3": ("Semantic Learning", 38.91),
    "4": ("3 + RIS Learning", 44.14),
    "5": ("4 + Domain Refine (Full)", 46.76),
    "6": ("5 w/o CL", 43.28),
    "7": ("5 w/o Augmented IMG", 42.29),
    "8": ("5 w/o Free IMG", 39.33),
    "9": ("5 w/o IMG", 34.47),
}
TRAININGS: Final = (
    Training("full", ("d_sem", "d_ref", "h"), {"semantic": "3", "ris_joint": "4", "refinement": "5"}),
    Training("plain", ("h",), {"all": "2"}, has_curriculum=False),
    Training("no-curriculum", ("d_sem", "d_ref", "h"), {"all": "6"}, has_curriculum=False),
    Training("no-augmented", ("d_sem", "h"), {"refinement": "7"}),
    Training("no-free", ("d_ref", "h"), {"refinement": "8"}),
    Training("no-objects", ("h",), {"refinement": "9"}),
)
