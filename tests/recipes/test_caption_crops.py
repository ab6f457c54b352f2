import numpy as np
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.workers.crops.crops import CropFormat, make_crops
from recipes.caption_crops import (
    CaptionSampler,
    CropTask,
    cut_crops,
    cut_pair,
    normalise,
    truth_tasks,
)
from recipes.scene_shards import rendered_scenes
from tests.builders.crops import runs_of


def test_training_crops_are_those_of_annotation():
    rendered = render(make_scene(Split.TRAIN, 0))
    mask = rendered.masks[0]
    ys, xs = np.nonzero(mask)
    box = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
    crop_format = CropFormat(96, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
    pair = normalise(torch.from_numpy(cut_pair(rendered.image, CropTask(0, mask, 1.2))))
    masked, context = make_crops(
        rendered.image,
        [box],
        runs=[runs_of(mask)],
        scales=(None, 1.2),
        crop_format=crop_format,
        device=torch.device("cpu"),
    )[:, 0]
    # Half a colour step of 255, divided by the standard deviation.
    assert (pair[0] - masked).abs().max() < 0.51 / 255 / 0.26
    assert (pair[1] - context).abs().max() < 0.51 / 255 / 0.26


def test_batches_hold_whole_scenes_and_follow_from_the_generator(tmp_path):
    data = rendered_scenes(tmp_path, Split.TRAIN, 4, seed=0, processes=1)
    tasks, attributes = truth_tasks(data, seed=0)
    crops = cut_crops(tmp_path / "crops.npy", data, tasks, attributes, processes=1)
    assert len(crops.pixels) == sum(len(scene.objects) for scene in data.scenes)
    sampler = CaptionSampler([crops], [1.0])
    one, other = (sampler.draw(8, np.random.default_rng(3), masked_share=0.5) for _ in range(2))
    assert one.captions == other.captions
    assert torch.equal(one.images, other.images)
    assert len(one.captions) == len(one.images) >= 8
