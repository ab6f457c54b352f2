"""The rows of the paper's Table 3, as trainings of other data or other phases; definitions: section 4.3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from experiments.ppt.ablation_runs import AblationRuns
from pseudoris.training.ppt.curriculum import SourceRuns
from pseudoris.training.ppt.ppt_config import CurriculumConfig, PhaseConfig, Source

# "w/o CL": all that there is, from the beginning and for as long, with pseudo-masks as they were extracted.
_ALL: Final[tuple[Source, ...]] = ("d_sem", "d_ref", "h_sem", "h_ref")


@dataclass(frozen=True)
class Training:
    """One training of the ablation.

    Attributes:
        name: Of its folder.
        sources: What it is given; `annotated` stands for the pipeline's annotation, in H's place.
        has_curriculum: Whether it goes through the phases.
        phases: The row that the figures after each of some phases are, by the phase's name.
        words: Settings that are not `tiny`'s, as `--set` takes them.
        refined_on: What the last phase trains on; None for the paper's.
        share_of_epochs: Of those of the others. The pipeline writes many expressions a mask, and a training with them
            is to take as many steps as `full`.
        share_of_refinement: Of the last phase's epochs, in the same way.
        has_seeds: Whether it has several seeds as the paper's rows have, because it is to explain a step of theirs.
    """

    name: str
    sources: Sequence[str]
    phases: dict[str, str]
    has_curriculum: bool = True
    words: tuple[str, ...] = ()
    refined_on: tuple[Source, ...] | None = None
    share_of_epochs: float = 1.0
    share_of_refinement: float = 1.0
    has_seeds: bool = False

    @property
    def is_paper(self) -> bool:
        """Whether it is a row of the paper's table: these have several seeds."""
        return not PAPER.keys().isdisjoint(self.phases.values())

    def runs(self, made: AblationRuns) -> SourceRuns:
        """Return the runs that it is given."""
        annotated = () if made.pseudo is None or "annotated" not in self.sources else (made.pseudo,)
        given = {name: (getattr(made, name),) if name in self.sources else () for name in ("d_sem", "d_ref", "h")}
        return SourceRuns(**given, annotated=annotated)

    def curriculum(self, epochs_factor: float) -> CurriculumConfig:
        """Return its phases."""
        paper = CurriculumConfig(epochs_factor=epochs_factor)
        if self.has_curriculum:
            *before, last = paper.phases
            changed = {"sources": self.refined_on or last.sources, "epochs": last.epochs * self.share_of_refinement}
            return paper.model_copy(update={"phases": (*before, last.model_copy(update=changed))})
        epochs = sum(phase.epochs for phase in paper.phases)
        return CurriculumConfig(
            phases=(PhaseConfig(name="all", sources=_ALL, epochs=epochs),), epochs_factor=epochs_factor
        )


# Number, name and mIoU of the paper's Table 3 (RefCOCO val).
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
# What the paper's section 4.3 says of its table: the first row is above the second.
ORDER: Final[tuple[tuple[str, str], ...]] = (
    ("2", "1"),
    ("3", "2"),
    ("4", "3"),
    ("5", "4"),
    ("5", "6"),
    ("5", "7"),
    ("5", "8"),
    ("5", "9"),
)
BESIDE: Final[dict[str, str]] = {
    "kept-composed": "5, D_ref kept in refinement",
    "order": "5, points matched in the order drawn",
    "no-anchors": "5, queries without anchors",
    "regression": "5, equation 2's heads, as in `paper`",
    "ppt-pseudo": "PPT, the pipeline's annotation in H's place",
    "with-pseudo": "5, and the pipeline's annotation in H_sem",
    "student-pseudo": "RIS student on the pipeline's annotation",
}
TRAININGS: Final[tuple[Training, ...]] = (
    Training(
        "full",
        ("d_sem", "d_ref", "h"),
        {"semantic": "3", "ris_joint": "4", "refinement": "5"},
    ),
    Training("plain", ("h",), {"all": "2"}, has_curriculum=False),
    Training("no-curriculum", ("d_sem", "d_ref", "h"), {"all": "6"}, has_curriculum=False),
    Training("no-augmented", ("d_sem", "h"), {"refinement": "7"}),
    Training("no-free", ("d_ref", "h"), {"refinement": "8"}),
    Training("no-objects", ("h",), {"refinement": "9"}),
    Training(
        "kept-composed",
        ("d_sem", "d_ref", "h"),
        {"refinement": "kept-composed"},
        refined_on=("d_ref", "h_sem", "h_ref"),
        share_of_refinement=0.466,
        has_seeds=True,
    ),
    Training(
        "order",
        ("d_sem", "d_ref", "h"),
        {"refinement": "order"},
        words=("objective.point_correspondence=order",),
    ),
    Training(
        "no-anchors",
        ("d_sem", "d_ref", "h"),
        {"refinement": "no-anchors"},
        words=("generator.anchor_gain=0",),
    ),
    Training(
        "regression",
        ("d_sem", "d_ref", "h"),
        {"refinement": "regression"},
        words=(
            "generator.point_head=regression",
            "generator.anchor_gain=0",
            "generator.response_gain=0",
            "objective.look=0",
        ),
    ),
    Training("pseudo", ("d_sem", "d_ref", "annotated"), {"refinement": "ppt-pseudo"}, share_of_epochs=0.44),
    Training("with-pseudo", ("d_sem", "d_ref", "h", "annotated"), {"refinement": "with-pseudo"}, share_of_epochs=0.368),
)
