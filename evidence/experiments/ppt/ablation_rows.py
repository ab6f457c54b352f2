"""The rows of the paper's Table 3, and rows beside them, as trainings; and the runs that they read.

Runs that exist are used again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from evidence.experiments.quality.parts import BEFORE_0_7, Options
from evidence.experiments.quality.scene_runs import COMPOSING, SceneRun, pseudo_run, training_scenes, true_run
from evidence.recipes.object_centric import write_object_centric
from examples.ppt.paper_rows import PAPER
from examples.ppt.paper_rows import TRAININGS as PAPER_TRAININGS
from examples.ppt.paper_rows import Training as PaperTraining
from pseudoris.files.location import RunLocation
from pseudoris.schemas.config_layers import config_hash, load_config
from pseudoris.synthworld.scenes import DEFAULT_WORLD, Split
from pseudoris.training.ppt.curriculum import SourceRuns
from pseudoris.training.ppt.ppt_config import CurriculumConfig, Source
from pseudoris.training.ppt.recipes.d_ref import compose_objects
from pseudoris.training.ppt.recipes.grounded_runs import make_objects, pair_masks
from pseudoris.training.ppt.recipes.recipe_config import load_recipe_config


@dataclass(frozen=True)
class Sizes:
    """What a whole ablation is measured on.

    Attributes:
        objects: Object-centric images, D_sem.
        composed: Images of D_ref, as a multiple of those.
        texts_per_image: Of D_ref, at most.
        scenes: Training scenes with simulated expressions: H, or annotated by the pipeline.
        val_scenes: Held-out scenes that are asked.
        epochs_factor: Of the paper's 10 + 30 + 10 epochs.
        num_seeds: Of each row of the paper's table; the others have one.
        num_student_steps: Of the RIS student beside them.
        world: Of training and held-out scenes; the models of `tiny` know the default one.
    """

    objects: int
    composed: int
    texts_per_image: int
    scenes: int
    val_scenes: int
    epochs_factor: float
    num_seeds: int
    num_student_steps: int
    world: str = DEFAULT_WORLD


# Chosen by what a step costs (docs/records/appendix/ppt.md): one training takes about eight minutes of one core.
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


# What figure 2 of the paper leaves open was chosen on the first 60 (docs/records/appendix/ppt.md).
FIRST_HELD_OUT: Final = 100


@dataclass(frozen=True)
class AblationRuns:
    """Where the runs lie.

    Attributes:
        d_sem: Of `ppt objects`.
        d_ref: Of `ppt compose`.
        h: Of `ppt pairs`, of simulated expressions; the masks behind them are unread.
        truth: What H was made of: simulated expressions and, unread by it, the true masks.
        val: Held-out scenes, simulated expressions and true masks; none of those that PPT's design was chosen on.
        pseudo: The same training images, annotated by `pseudoris annotate --preset tiny`, with composed expressions;
            None where not asked for.
    """

    d_sem: str
    d_ref: str
    h: str
    truth: str
    val: str
    pseudo: str | None


def make_runs(folder: Path, sizes: Sizes, *, is_pseudo: bool, tell: Callable[[str], None]) -> AblationRuns:
    """Make the runs, or go on where an earlier call was interrupted.

    Args:
        folder: Of results.
        sizes: How many images.
        is_pseudo: Whether the pipeline annotates the training scenes too.
        tell: Told what comes next.
    """
    options = Options(folder)
    composing = [f"compose.images_per_source={sizes.composed}", f"compose.texts_per_image={sizes.texts_per_image}"]
    config = load_recipe_config("tiny", None, composing)
    named = folder / "runs"
    d_sem, d_ref = named / f"d-sem-{sizes.objects}", named / f"d-ref-{sizes.objects * sizes.composed}"
    scenes = training_scenes(sizes.scenes, sizes.world)
    h = named / f"h-{scenes.name}"

    def silent(done: int, total: int | None) -> None:
        """Nobody watches these."""

    tell(f"{sizes.objects} object-centric images: D_sem, D_ref")
    images = write_object_centric(named / f"objects-{sizes.objects}", num_images=sizes.objects)
    make_objects(str(images), RunLocation.open(str(d_sem)), config, on_progress=silent, on_wait=tell)
    compose_objects(str(d_sem), RunLocation.open(str(d_ref)), config, on_progress=silent, on_wait=tell)
    tell(f"{sizes.scenes} training scenes: H")
    truth = true_run(options, scenes)
    pair_masks(truth, RunLocation.open(str(h)), config, on_progress=silent, on_wait=tell)
    val = true_run(options, SceneRun(Split.TEST, sizes.val_scenes, FIRST_HELD_OUT, sizes.world))
    if is_pseudo:
        tell("the pipeline's annotation of the training scenes")
    pseudo = pseudo_run(options, scenes, composing=COMPOSING) if is_pseudo else None
    return AblationRuns(str(d_sem), str(d_ref), str(h), truth, val, pseudo)


@cache
def annotation_digest() -> str:
    """Return a digest of the method of the pipeline's annotation."""
    return config_hash(load_config("tiny", None, [COMPOSING, *BEFORE_0_7]))[:8]


@dataclass(frozen=True)
class Training(PaperTraining):
    """One training of the ablation; of its `sources`, `annotated` is the pipeline's annotation, in H's place.

    Attributes:
        words: Settings that are not `tiny`'s, as `--set` takes them.
        refined_on: What the last phase trains on; None for the paper's.
        share_of_epochs: Of those of the others. The pipeline writes many expressions a mask, and a training with them
            is to take as many steps as `full`.
        share_of_refinement: Of the last phase's epochs, in the same way.
        num_seeds: Of it, where that is not 3 for a row of the paper's table and 1 for the others.
    """

    words: tuple[str, ...] = ()
    refined_on: tuple[Source, ...] | None = None
    share_of_epochs: float = 1.0
    share_of_refinement: float = 1.0
    num_seeds: int | None = None

    @property
    def is_paper(self) -> bool:
        """Whether it is a row of the paper's table: these have several seeds."""
        return not PAPER.keys().isdisjoint(self.phases.values())

    def runs(self, made: AblationRuns) -> SourceRuns:
        """Return the runs that it is given."""
        annotated = () if made.pseudo is None or "annotated" not in self.sources else (made.pseudo,)
        given = {name: (getattr(made, name),) if name in self.sources else () for name in ("d_sem", "d_ref", "h")}
        return SourceRuns(**given, annotated=annotated)

    def curriculum(self, epochs_factor: float = 1.0) -> CurriculumConfig:
        """Return its phases, the last one changed as it says."""
        found = super().curriculum(epochs_factor)
        if not self.has_curriculum:
            return found
        *before, last = found.phases
        changed = {"sources": self.refined_on or last.sources, "epochs": last.epochs * self.share_of_refinement}
        return found.model_copy(update={"phases": (*before, last.model_copy(update=changed))})


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
    # Of 4 − 3 and 5 − 4 there is a verdict, in the default world and in `touching`.
    *(Training(**vars(each), num_seeds=6 if each.name == "full" else None) for each in PAPER_TRAININGS),
    Training(
        "kept-composed",
        ("d_sem", "d_ref", "h"),
        {"refinement": "kept-composed"},
        refined_on=("d_ref", "h_sem", "h_ref"),
        share_of_refinement=0.466,
        num_seeds=3,
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
