"""The runs that an ablation is trained on and asked about; what stands already is not made again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.ppt.sizes import Sizes
from benchmarks.quality.options import Options
from benchmarks.quality.runs import BY_SHARES, SceneRun, pseudo_run, training_scenes, true_run
from store.location import RunLocation
from synthworld.object_centric import write_object_centric
from synthworld.scenes import Split
from training.ppt.recipes.compose import compose_objects
from training.ppt.recipes.config import load_recipe_config
from training.ppt.recipes.objects import make_objects
from training.ppt.recipes.pairs import pair_candidates

# What figure 2 of the paper leaves open was chosen on the first 60 (docs/ppt.md).
FIRST_HELD_OUT: Final = 100


@dataclass(frozen=True)
class AblationRuns:
    """Where the runs lie.

    Attributes:
        d_sem: Of `ppt objects`.
        d_ref: Of `ppt compose`.
        h: Of `ppt pairs`, of people's expressions; the masks behind them are unread.
        truth: What H was made of: people's expressions and, unread by it, the true masks.
        val: Held-out scenes, people's expressions and true masks; none of those that PPT's design was chosen on.
        pseudo: The same training images, annotated by `pseudoris annotate --preset tiny --set composing={}`;
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
    h = named / f"h-{sizes.scenes}"

    def silent(done: int, total: int | None) -> None:
        """Nobody watches these."""

    tell(f"{sizes.objects} object-centric images: D_sem, D_ref")
    images = write_object_centric(named / f"objects-{sizes.objects}", num_images=sizes.objects)
    make_objects(str(images), RunLocation.open(str(d_sem)), config, on_progress=silent, on_wait=tell)
    compose_objects(str(d_sem), RunLocation.open(str(d_ref)), config, on_progress=silent, on_wait=tell)
    tell(f"{sizes.scenes} training scenes: H")
    scenes = training_scenes(sizes.scenes)
    truth = true_run(options, scenes)
    pair_candidates(truth, RunLocation.open(str(h)), config, on_progress=silent, on_wait=tell)
    val = true_run(options, SceneRun(Split.TEST, sizes.val_scenes, first=FIRST_HELD_OUT))
    if is_pseudo:
        tell("the pipeline's annotation of the training scenes")
    pseudo = pseudo_run(options, scenes, composing=BY_SHARES) if is_pseudo else None
    return AblationRuns(str(d_sem), str(d_ref), str(h), truth, val, pseudo)
