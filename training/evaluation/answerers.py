"""What an evaluation can ask, by the name that a user gives it: a training, a model without training, or a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch

from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.errors import ConfigError
from pseudoris.training.chooser.chooser_training import CHOOSER, load_student
from pseudoris.training.evaluation.predictions import SUFFIXES, Predictions
from pseudoris.training.evaluation.zero_shot import ClipAndSam, ClipChoice, SamProposals, first_noun_phrase
from pseudoris.training.learning.checkpoint_folder import SUMMARY_NAME, read_settings
from pseudoris.training.learning.evaluator import Answerer, HeldOutExpressions
from pseudoris.training.ppt.ppt_learner import LEARNER as PPT
from pseudoris.training.ppt.ppt_learner import load_ppt
from pseudoris.training.ppt.recipes.recipe_config import load_recipe_config

SENTENCE, NOUN, CLIP_AND_SAM = "clip:sentence", "clip:noun", "clip+sam"
ZERO_SHOT: Final = (SENTENCE, NOUN, CLIP_AND_SAM)


def is_predictions(model: str) -> bool:
    """Return whether a model's name is that of a file of predictions."""
    return Path(model).suffix.lower() in SUFFIXES


def open_answerer(
    model: str, questions: HeldOutExpressions, *, preset: str | None = None, assignments: Sequence[str] = ()
) -> Answerer:
    """Return a model.

    Args:
        model: The folder or checkpoint of a training, one of `ZERO_SHOT`, or a file of predictions.
        questions: What it will be asked; predictions are held to them.
        preset: Of a model of `ZERO_SHOT`, which needs one: an annotation's, of CLIP and SAM a recipe's
            (`load_recipe_config`).
        assignments: `key=value` words over the preset.

    Raises:
        ConfigError: There is no such model, it is of another kind, its weights are missing, a preset is given for a
            model that has its own, or the predictions do not fit the questions.
    """
    if model in ZERO_SHOT:
        if preset is None:
            raise ConfigError(
                f"{model} needs a --preset: tiny for drawn scenes, base (or for clip+sam paper) for photographs."
            )
        return _zero_shot(model, preset, assignments)
    if preset is not None or assignments:
        raise ConfigError(f"--preset and --set belong to {', '.join(ZERO_SHOT)}. Leave them out: {model} has its own.")
    if is_predictions(model):
        return Predictions(Path(model), questions)
    path = Path(model)
    if not path.exists():
        raise ConfigError(
            f"--model {model} does not exist. Give the --out of `pseudoris train`, a file of predictions "
            f"({' or '.join(SUFFIXES)}), or one of {', '.join(ZERO_SHOT)}."
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    file, _, settings = read_settings(path)
    learner = settings.get("learner")
    if learner == PPT:
        return load_ppt(path, device)
    if learner == CHOOSER:
        return load_student(path, device)
    raise ConfigError(
        f"{file} is a checkpoint of {learner!r}, which is no model of `pseudoris train`. Write its masks to a file of "
        f"predictions ({' or '.join(SUFFIXES)}) and give that."
    )


def is_unfinished(model: str) -> bool:
    """Return whether a model is a training's folder that has checkpoints and no end yet."""
    return Path(model).is_dir() and not (Path(model) / SUMMARY_NAME).exists()


def _zero_shot(model: str, preset: str, assignments: Sequence[str]) -> Answerer:
    if model == CLIP_AND_SAM:
        return ClipAndSam(load_recipe_config(preset, None, assignments))
    config = load_config(preset, None, assignments)
    return ClipChoice(SamProposals(config), config, asked=first_noun_phrase if model == NOUN else str)
