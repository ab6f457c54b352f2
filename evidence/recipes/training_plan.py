"""The numbers and the phases of the trainings, which __main__.py puts in order and runs side by side.

The defaults made the shipped weights. A model's weights file is written last: it says that the model is done.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from open_clip.model import CLIP
from torch import nn

from evidence.recipes.caption_crops import CaptionSampler, TrainingCrops, cut_crops, proposed_tasks, truth_tasks
from evidence.recipes.caption_recipe import (
    CaptionRecipe,
    CaptionTrainee,
    ClipTrainee,
    CocaTrainee,
    LongerRecipe,
    train_captions,
)
from evidence.recipes.caption_styles import Say, caption_with_clauses, caption_with_names
from evidence.recipes.caption_vocabulary import CompactVocabulary, caption_vocabulary, expression_vocabulary
from evidence.recipes.sam_recipe import PromptRecipe, SamRecipe, train_sam, train_sam_prompts
from evidence.recipes.scene_clip_recipe import SceneRecipe, train_scene_clip
from evidence.recipes.scene_shards import RenderedScenes, rendered_scenes
from evidence.recipes.scene_texts import noisy_caption
from evidence.recipes.shipped_weights import shipped_state, write_weights
from pseudoris.schemas.config import MasksConfig, WeightsConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.synthworld.scenes import Split
from pseudoris.workers.checkpoints.openclip import load_clip
from pseudoris.workers.masks.sam_model import load_sam

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingPlan:
    """All numbers of the whole training; the defaults made the shipped weights.

    `out` receives the weights files and, in `work`, the checkpoints of interrupted trainings. The second phases, in
    which captioner and CLIP train on SAM's masks, have about half of the first phases' learning rate.
    """

    out: Path
    seed: int = 0
    num_scenes: int = 6000
    num_proposed_scenes: int = 1200
    sam: SamRecipe = field(default_factory=SamRecipe)
    sam_further: tuple[SamRecipe, ...] = (
        SamRecipe(steps=800, peak_rate=6e-4, iou_weight=5.0),
        SamRecipe(steps=500, peak_rate=4e-4, iou_weight=5.0, loss_size=96),
        SamRecipe(steps=1300, peak_rate=7e-4, iou_weight=10.0, loss_size=96, hard_object_weight=1.0),
    )
    coca: CaptionRecipe = field(default_factory=lambda: CaptionRecipe(steps=3000))
    clip: CaptionRecipe = field(default_factory=lambda: CaptionRecipe(steps=1500, peak_rate=5e-4, masked_share=0.4))
    coca_on_masks: CaptionRecipe = field(default_factory=lambda: CaptionRecipe(steps=1000, peak_rate=5e-4))
    clip_on_masks: CaptionRecipe = field(
        default_factory=lambda: CaptionRecipe(steps=800, peak_rate=3e-4, masked_share=0.4)
    )
    proposed_share: float = 0.65
    scene_clip: SceneRecipe = field(default_factory=SceneRecipe)
    sam_prompts: PromptRecipe = field(default_factory=PromptRecipe)
    coca_longer: LongerRecipe = field(default_factory=LongerRecipe)
    # No preset has these: experiments ask what weights that were fitted to other captioners are worth.
    coca_brief: LongerRecipe = field(default_factory=lambda: LongerRecipe(CaptionRecipe(steps=3_000), seed=1))
    coca_clauses: LongerRecipe = field(
        default_factory=lambda: LongerRecipe(CaptionRecipe(steps=7_000), seed=2, say=caption_with_clauses)
    )
    coca_names: LongerRecipe = field(
        default_factory=lambda: LongerRecipe(
            CaptionRecipe(steps=2_500, peak_rate=6e-4),
            num_scenes=4_000,
            num_proposed_scenes=1_000,
            seed=3,
            say=caption_with_names,
        )
    )
    clip_names: CaptionRecipe = field(
        default_factory=lambda: CaptionRecipe(steps=1_500, peak_rate=4e-4, masked_share=0.4)
    )

    @property
    def work(self) -> Path:
        """Folder of rendered scenes, crops and checkpoints."""
        return self.out / "work"

    def weights(self, model: str) -> Path:
        """Return the path of a model's weights file; it exists only when the model is done."""
        return self.out / f"{model}.safetensors"

    @property
    def proposing_sam(self) -> Path:
        """Weights of the SAM that proposes masks on training scenes."""
        return self.work / "sam-first.safetensors"

    def checkpoint(self, phase: str) -> Path:
        """Return where a phase keeps its checkpoint."""
        return self.work / f"{phase}.pt"


def masks_config(plan: TrainingPlan) -> MasksConfig:
    """Return the tiny preset's mask proposal with the SAM of the first phase."""
    weights = WeightsConfig(uri=str(plan.proposing_sam))
    # A coarser grid misses a few small objects, and proposes in half of the time.
    return load_config("tiny").masks.model_copy(update={"weights": weights, "points_per_side": 8})


def scenes_of(plan: TrainingPlan) -> RenderedScenes:
    """Return the training scenes."""
    return rendered_scenes(plan.work, Split.TRAIN, plan.num_scenes, seed=plan.seed)


def true_crops(plan: TrainingPlan) -> TrainingCrops:
    """Return the crops cut with the truth's masks."""
    data = scenes_of(plan)
    tasks, attributes = truth_tasks(data, seed=plan.seed)
    return cut_crops(plan.work / "crops-true.npy", data, tasks, attributes)


def proposed_crops(plan: TrainingPlan) -> TrainingCrops | None:
    """Return the crops cut with SAM's own masks; None if no mask fits an object, as in a short trial."""
    data = scenes_of(plan)
    path, count = plan.work / "proposals.npz", plan.num_proposed_scenes
    tasks, attributes = proposed_tasks(path, data, masks_config(plan), count=count, seed=plan.seed)
    if not tasks:
        logger.warning(
            "No mask that SAM proposes on %d scenes is an object. Training continues with true crops only.", count
        )
        return None
    return cut_crops(plan.work / "crops-proposed.npy", data, tasks, attributes)


def first_sam(plan: TrainingPlan) -> None:
    """Trains the SAM whose masks the other two models use in their second phase."""
    architecture = load_config("tiny").masks.architecture
    checkpoint = plan.checkpoint("sam-first")
    sam = train_sam(architecture, scenes_of(plan), plan.sam, seed=plan.seed, checkpoint=checkpoint)
    write_weights(plan.proposing_sam, shipped_state(sam.state_dict()))


def finish_sam(plan: TrainingPlan) -> None:
    """Continues SAM: its predicted IoU, then thin outlines, then what it still misses; writes its weights."""
    architecture, data = load_config("tiny").masks.architecture, scenes_of(plan)
    earlier = plan.checkpoint("sam-first")
    for number, recipe in enumerate(plan.sam_further, start=1):
        checkpoint = plan.checkpoint(f"sam-further-{number}")
        seed = plan.seed + number
        sam = train_sam(architecture, data, recipe, seed=seed, checkpoint=checkpoint, start_from=earlier)
        earlier = checkpoint
    _ship(plan, "sam", sam)


def first_captioner_and_clip(plan: TrainingPlan, with_clip: bool) -> None:
    """Trains the captioner and then, from its image tower, CLIP, on the truth's crops; needs no SAM."""
    sampler = CaptionSampler([true_crops(plan)], [1.0])
    vocabulary = caption_vocabulary()
    coca = plan.checkpoint("coca-first")
    train_captions(CocaTrainee, vocabulary, sampler, plan.coca, seed=plan.seed, checkpoint=coca)
    if with_clip:
        clip = plan.checkpoint("clip-first")
        train_captions(ClipTrainee, vocabulary, sampler, plan.clip, seed=plan.seed, checkpoint=clip, warm_start=coca)


def mixed_sampler(plan: TrainingPlan, *, say: Say = noisy_caption) -> CaptionSampler:
    """Return batches of both kinds of crop."""
    true, proposed = true_crops(plan), proposed_crops(plan)
    if proposed is None:
        return CaptionSampler([true], [1.0], say=say)
    return CaptionSampler([true, proposed], [1.0 - plan.proposed_share, plan.proposed_share], say=say)


def finish_captioner(plan: TrainingPlan) -> None:
    """Continues the captioner on SAM's masks, and writes its weights."""
    _finish(plan, "coca", CocaTrainee, plan.coca_on_masks)


def finish_clip(plan: TrainingPlan) -> None:
    """Continues CLIP on SAM's masks, and writes its weights."""
    _finish(plan, "clip", ClipTrainee, plan.clip_on_masks)


def train_prompts(plan: TrainingPlan) -> None:
    """Continues the finished SAM for prompts of several points, and writes its weights."""
    sam = load_sam(load_config("tiny").masks.architecture, WeightsConfig(uri=str(plan.weights("sam"))))
    recipe = replace(plan.sam_prompts, num_scenes=min(plan.sam_prompts.num_scenes, plan.num_scenes))
    checkpoint = plan.checkpoint("sam-prompts")
    trained = train_sam_prompts(sam, scenes_of(plan), recipe, seed=plan.seed, checkpoint=checkpoint)
    _ship(plan, "sam_prompts", trained)


def train_longer_captioner(plan: TrainingPlan, name: str = "coca_longer") -> None:
    """Trains the captioner of that field of the plan from nothing, longer, and on crops of the finished SAM's masks."""
    recipe: LongerRecipe = getattr(plan, name)
    _train_longer(plan, name, CocaTrainee, recipe, recipe.captions)


def train_names(plan: TrainingPlan) -> None:
    """Continues the finished captioner, and the finished CLIP, on captions with three names a category."""
    recipe = plan.coca_names
    if not plan.weights("coca_names").exists():
        _train_longer(plan, "coca_names", CocaTrainee, recipe, recipe.captions, start="coca_longer")
    _train_longer(plan, "clip_names", ClipTrainee, recipe, plan.clip_names, start="clip")


def _train_longer(
    plan: TrainingPlan,
    name: str,
    kind: type[CaptionTrainee],
    recipe: LongerRecipe,
    captions: CaptionRecipe,
    start: str | None = None,
) -> None:
    """Trains a model on the crops and captions of a longer recipe, from nothing or from the finished model `start`."""
    vocabulary, sampler = caption_vocabulary(recipe.say), longer_sampler(plan, recipe)
    trainee = train_captions(
        kind,
        vocabulary,
        sampler,
        captions,
        seed=plan.seed + recipe.seed,
        checkpoint=plan.checkpoint(name.replace("_", "-")),
        start_from=None if start is None else plan.weights(start),
    )
    _ship(plan, name, trainee.model, vocabulary)


def longer_sampler(plan: TrainingPlan, recipe: LongerRecipe) -> CaptionSampler:
    """Return batches of both kinds of crop of a longer training."""
    # A folder of its own, for its scenes and crops are others.
    own = replace(
        plan,
        out=plan.work / f"longer-{recipe.num_scenes}",
        num_scenes=recipe.num_scenes,
        num_proposed_scenes=recipe.num_proposed_scenes,
        proposed_share=recipe.proposed_share,
    )
    own.work.mkdir(parents=True, exist_ok=True)
    if not own.proposing_sam.exists():
        shutil.copyfile(plan.weights("sam"), own.proposing_sam)
    return mixed_sampler(own, say=recipe.say)


def train_scenes(plan: TrainingPlan) -> None:
    """Trains the scene CLIP, which starts from the finished CLIP and SAM, and writes its weights."""
    clip = load_clip("builtin:tiny/clip.json", WeightsConfig(uri=str(plan.weights("clip"))))
    if not isinstance(clip, CLIP):
        raise TypeError(f"tiny/clip.json builds {type(clip).__name__}, not CLIP")
    sam = load_sam(load_config("tiny").masks.architecture, WeightsConfig(uri=str(plan.weights("sam"))))
    vocabulary, checkpoint = expression_vocabulary(), plan.checkpoint("scene-clip")
    trainee = train_scene_clip(
        vocabulary, scenes_of(plan), plan.scene_clip, seed=plan.seed, checkpoint=checkpoint, start=(clip, sam)
    )
    _ship(plan, "scene_clip", trainee.model, vocabulary)


def _finish(plan: TrainingPlan, name: str, kind: type[CaptionTrainee], recipe: CaptionRecipe) -> None:
    vocabulary, phases = caption_vocabulary(), {each: plan.checkpoint(f"{name}-{each}") for each in ("first", "second")}
    sampler, seed = mixed_sampler(plan), plan.seed + 1
    trainee = train_captions(
        kind, vocabulary, sampler, recipe, seed=seed, checkpoint=phases["second"], start_from=phases["first"]
    )
    _ship(plan, name, trainee.model, vocabulary)


def _ship(plan: TrainingPlan, name: str, module: nn.Module, vocabulary: CompactVocabulary | None = None) -> None:
    digest = write_weights(plan.weights(name), shipped_state(module.state_dict(), vocabulary))
    logger.info("%s: sha256 %s", name, digest)


def start_worker() -> None:
    """Prepare threads and logging of a training process. Here: a spawned process does not import `__main__` again."""
    # Two processes of one thread beat one of two (measured), and one thread rounds the same everywhere.
    torch.set_num_threads(1)
    start_logging()


def start_logging() -> None:
    """Log progress lines with the time of day."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True)
