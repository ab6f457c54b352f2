"""The tiny vision-language model: its tower, what the scaling leaves as it was, its folder, and what it says."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from evidence.recipes.caption_crops import CropTask, TrainingCrops, cut_pair, normalise
from evidence.recipes.llava_recipe import FOLDER, LlavaRecipe, LlavaTrainee, patch_features, tiny_llava, train_llava
from evidence.recipes.optimiser import load_module
from pseudoris.schemas.config import WeightsConfig
from pseudoris.synthworld.attributes import CATEGORIES, COLOURS
from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.workers.checkpoints.openclip import load_coca

PROMPT = "Describe the object in a few words."


@pytest.fixture(scope="module")
def coca():
    return load_coca("builtin:tiny/coca.json", WeightsConfig(uri="builtin:tiny/coca.safetensors"))


@pytest.fixture(scope="module")
def objects():
    """Crops (M, 2, 3, 96, 96) of the objects of scenes that nothing is trained on, with their attributes."""
    found = []
    for position in range(60_000, 60_006):
        scene = make_scene(Split.DEVELOPMENT, position)
        drawn = render(scene)
        tasks = [CropTask(0, mask, 1.1) for mask in drawn.masks]
        found += [
            (cut_pair(drawn.image, task), each.attributes) for task, each in zip(tasks, scene.objects, strict=True)
        ]
    pixels, attributes = zip(*found, strict=True)
    return np.stack(pixels), attributes


@pytest.fixture(scope="module")
def trained():
    return AutoModelForImageTextToText.from_pretrained(FOLDER).eval(), AutoProcessor.from_pretrained(FOLDER)


@pytest.mark.slow
@torch.no_grad()
def test_its_tower_sees_what_the_captioner_sees(coca, objects, trained):
    images = normalise(torch.from_numpy(objects[0][:4, 0]))
    seen = {}
    hook = coca.visual.transformer.register_forward_hook(lambda module, given, out: seen.update(tokens=out))
    coca.visual(images)
    hook.remove()
    for model in (tiny_llava(coca), trained[0]):
        torch.testing.assert_close(
            model.model.vision_tower(images).last_hidden_state, seen["tokens"], rtol=1e-5, atol=1e-3
        )


@pytest.mark.slow
def test_training_lowers_the_loss_and_leaves_a_projector_that_reads_unscaled_features(coca, objects, tmp_path):
    torch.manual_seed(0)
    model, attributes = tiny_llava(coca), objects[1][:8]
    features = patch_features(model, TrainingCrops(objects[0][:8], np.zeros(8), attributes), seed=0)
    asked = (features.patches[:, 0].float(), torch.zeros(8, 2, dtype=torch.int64))
    captions = [f"a {each.colour} {each.category}" for each in attributes]
    before = LlavaTrainee(model, [features]).loss(*asked, captions, is_first=False).item()
    recipe, checkpoint = LlavaRecipe(steps=6, crops_a_step=4), tmp_path / "llava.pt"
    train_llava(model, [features, features], recipe, seed=0, checkpoint=checkpoint)
    scaled = LlavaTrainee(tiny_llava(coca), [features, features])
    load_module(checkpoint, scaled)
    unscaled = LlavaTrainee(model, [features])
    unscaled.mean, unscaled.std = torch.zeros(128), torch.ones(128)
    losses = [each.loss(*asked, captions, is_first=False).item() for each in (scaled, unscaled)]
    assert max(losses) < before - 0.1
    assert losses[0] == pytest.approx(losses[1], rel=3e-3)


@pytest.mark.slow
@torch.no_grad()
def test_the_folder_describes_held_out_objects_with_any_prompt(objects, trained):
    model, processor = trained
    images = [Image.fromarray(pixels.transpose(1, 2, 0)) for pixels in objects[0][:, 1]]
    said = {}
    for prompt in (PROMPT, "What is it?"):
        message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}
        text = processor.apply_chat_template([message], add_generation_prompt=True)
        given = processor(images=images, text=[text] * len(images), return_tensors="pt")
        answers = model.generate(**given, max_new_tokens=14, do_sample=False)[:, given["input_ids"].shape[1] :]
        said[prompt] = processor.batch_decode(answers, skip_special_tokens=True)
    right = [
        [[word for word in text.split() if word in CATEGORIES] == [each.category] for text in texts]
        for each, texts in zip(objects[1], zip(*said.values(), strict=True), strict=True)
    ]
    assert np.mean(right) > 0.7
    named = [(word, each.colour) for each, text in zip(objects[1], said[PROMPT], strict=True) for word in text.split()]
    coloured = [word == colour for word, colour in named if word in COLOURS]
    assert sum(coloured) >= 0.7 * len(coloured)
