import numpy as np
import pytest
import torch

from schemas.config_loading import load_config
from synthworld.scenes import Split
from synthworld.training.rendered import rendered_scenes
from synthworld.training.sam import SamRecipe, draw_batch, losses, train_sam

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


def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(tmp_path, monkeypatch):
    data = rendered_scenes(tmp_path, Split.TRAIN, 3, seed=0, processes=1)
    architecture = load_config("tiny").masks.architecture
    whole = train_sam(architecture, data, RECIPE, seed=1, checkpoint=tmp_path / "whole.pt")
    saved = tmp_path / "cut.pt"
    with monkeypatch.context() as patch:
        patch.setattr("synthworld.training.sam.draw_batch", cut_after(draw_batch, 1))
        with pytest.raises(KeyboardInterrupt):
            train_sam(architecture, data, RECIPE, seed=1, checkpoint=saved)
    assert torch.load(saved, weights_only=True)["step"] == 1
    again = train_sam(architecture, data, RECIPE, seed=1, checkpoint=saved)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
