import numpy as np
import pytest
import torch

from pseudoris.schemas.config_layers import load_config
from pseudoris.synthworld.scenes import Split
from pseudoris.workers.checkpoints.sam_architectures import sam_architecture
from pseudoris.workers.masks.sam_model import build_sam
from recipes.sam_recipe import SamRecipe, draw_batch, losses, predict, train_sam
from recipes.scene_shards import rendered_scenes

RECIPE = SamRecipe(steps=2, images_a_step=2, object_points=3, background_points=1, checkpoint_every=1)


def test_points_lie_on_their_masks_and_background_points_on_none(tmp_path):
    data = rendered_scenes(tmp_path, Split.TRAIN, 3, seed=0, processes=1)
    batch = draw_batch(data, RECIPE, np.random.default_rng(0))
    assert batch.images.shape == (2, 3, 192, 192)
    for points, truth in zip(batch.points, batch.truth, strict=True):
        for (x, y), mask in zip(points.tolist()[:3], truth[:3], strict=True):
            assert mask[int(y), int(x)]
        assert not truth[3].any()
        x, y = points[3].tolist()
        assert not truth[:3, int(y), int(x)].any()


def test_the_loss_is_lowest_on_the_truth():
    truth = torch.zeros(1, 1, 192, 192, dtype=torch.bool)
    truth[..., 60:120, 60:120] = True
    right = torch.where(truth[..., 1::3, 1::3], 9.0, -9.0)[:, :, None].expand(1, 1, 3, 64, 64)
    good = losses(right, torch.ones(1, 1, 3), truth)
    bad = losses(-right, torch.ones(1, 1, 3), truth)
    # Enlarging rounds the four corners.
    assert good["best"].item() > 0.99
    assert good["mask"] < 0.1 * bad["mask"]
    assert good["iou"].item() < 1e-4
    assert bad["iou"].item() > 0.9


def cut_after(function, calls):
    """The function, interrupted as by Ctrl-C after so many calls."""
    done = []

    def cut(*arguments):
        if len(done) == calls:
            raise KeyboardInterrupt
        done.append(1)
        return function(*arguments)

    return cut


@pytest.mark.slow
def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(tmp_path, monkeypatch):
    data = rendered_scenes(tmp_path, Split.TRAIN, 3, seed=0, processes=1)
    architecture = load_config("tiny").masks.architecture
    whole = train_sam(architecture, data, RECIPE, seed=1, checkpoint=tmp_path / "whole.pt")
    saved = tmp_path / "cut.pt"
    with monkeypatch.context() as patch:
        patch.setattr("recipes.sam_recipe.draw_batch", cut_after(draw_batch, 1))
        with pytest.raises(KeyboardInterrupt):
            train_sam(architecture, data, RECIPE, seed=1, checkpoint=saved)
    assert torch.load(saved, weights_only=True)["step"] == 1
    again = train_sam(architecture, data, RECIPE, seed=1, checkpoint=saved)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_all_images_of_a_batch_are_decoded_as_one_by_one(tmp_path):
    data = rendered_scenes(tmp_path, Split.TRAIN, 3, seed=0, processes=1)
    batch = draw_batch(data, RECIPE, np.random.default_rng(0))
    torch.manual_seed(0)
    sam = build_sam(sam_architecture(load_config("tiny").masks.architecture)).eval()
    with torch.no_grad():
        logits, ious = predict(sam, batch)
        for number, points in enumerate(batch.points):
            image = (batch.images[number : number + 1] - sam.pixel_mean) / sam.pixel_std
            sparse, dense = sam.prompt_encoder(
                points=(points[:, None], torch.ones(len(points), 1, dtype=torch.int64)), boxes=None, masks=None
            )
            wanted_logits, wanted_ious = sam.mask_decoder(
                image_embeddings=sam.image_encoder(image),
                image_pe=sam.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=True,
            )
            torch.testing.assert_close(logits[number], wanted_logits, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(ious[number], wanted_ious, rtol=1e-4, atol=1e-4)
