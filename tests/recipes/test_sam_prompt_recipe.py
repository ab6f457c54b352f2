"""SAM trained on for prompts of several points."""

import numpy as np
import pytest
import torch

from pseudoris.schemas.config import WeightsConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.synthworld.scenes import Split
from pseudoris.workers.masks.sam_model import load_sam
from recipes.sam_recipe import (
    PromptRecipe,
    draw_prompts,
    encoded,
    points_in_box,
    predict_single,
    prompt_losses,
)
from recipes.scene_shards import RenderedScenes, rendered_scenes

MASKS = load_config("tiny").masks
PROMPTED = WeightsConfig(uri="builtin:tiny/sam_prompts.safetensors")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> RenderedScenes:
    return rendered_scenes(tmp_path_factory.mktemp("scenes"), Split.TEST, 8, seed=0, processes=1)


def test_points_lie_in_the_box_and_say_whether_they_are_inside() -> None:
    mask = np.zeros((40, 60), dtype=bool)
    mask[10:20, 30:50] = True
    mask[10:15, 30:40] = False

    xy, labels = points_in_box(mask, 200, np.random.default_rng(0))

    assert ((xy > [30, 10]) & (xy < [50, 20])).all()
    assert (mask[xy[:, 1].astype(int), xy[:, 0].astype(int)] == labels.astype(bool)).all()
    assert labels[0] == 1
    assert 0.6 < labels.mean() < 0.9


def test_the_shipped_weights_answer_several_points_with_the_object(scenes: RenderedScenes) -> None:
    sam = load_sam(MASKS.architecture, PROMPTED)
    recipe = PromptRecipe(num_scenes=8, max_points=9, jitter_px=0.0, max_box_scale=1.0)
    reached = []
    with torch.no_grad():
        embeddings = encoded(sam, scenes, 8)
        for seed in range(3):
            prompts = draw_prompts(scenes, recipe, np.random.default_rng(seed))
            logits, ious = predict_single(sam, embeddings[torch.from_numpy(prompts.rows)].float(), prompts)
            reached.append(prompt_losses(logits, ious, prompts.truth, loss_size=96)["reached"].item())

    # 0.85 of 150 development scenes; the ordinary weights, whose single mask was never trained, reach 0.23.
    assert np.mean(reached) > 0.7
