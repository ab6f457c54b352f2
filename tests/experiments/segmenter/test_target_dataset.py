"""What the segmenter is shown: images are told apart by their bytes, whatever the runs call them."""

from __future__ import annotations

import pytest
import torch

from experiments.segmenter.segmenter_learner import SegmenterLearner, TargetDataset, collate, on_image
from pseudoris.training.evaluation.held_out import HeldOutExpressions
from pseudoris.training.learning.frozen_towers import FrozenTowers, Placement
from pseudoris.training.learning.training_data import open_runs
from pseudoris.workers.crops.crops import CropFormat
from tests.experiments.segmenter.builders import small_config
from tests.interchange.dataset.builders import build_run

FORMAT = CropFormat(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def two_runs(folder):
    """The other run has the bytes of the first one's first four images, two of them under the ids of others."""
    one = build_run(folder / "one", num_shards=2, per_shard=4)
    other = build_run(folder / "other", num_shards=2, per_shard=2)
    return one.location.root, other.location.root


def test_masks_of_two_runs_come_together_where_their_image_is_the_same_and_only_there(tmp_path):
    config = small_config(tmp_path)
    learner = SegmenterLearner(config, FrozenTowers(config.towers))
    targets, images, _ = open_runs(two_runs(tmp_path), None, config.data, seed=0)
    dataset = TargetDataset(
        targets,
        images,
        image_format=learner.towers.image_format,
        mask_size=config.model.mask_size,
        is_held=learner.holds,
    )
    keys = dataset.image_keys()
    of_one, of_other = keys[:16:2], keys[16::2]
    assert len(set(of_one)) == 8
    assert of_other == of_one[:4]


def test_an_image_is_seen_although_another_of_its_id_was_seen_before(tmp_path):
    one, other = map(HeldOutExpressions, two_runs(tmp_path))
    config = small_config(tmp_path)
    question = other.question(other.images[3])
    before = next(each for each in one if each.image_id == question.image_id)
    assert not torch.equal(before.image, question.image)
    learner = SegmenterLearner(config, FrozenTowers(config.towers))
    learner.answer(before)
    fresh = SegmenterLearner(config, FrozenTowers(config.towers))
    fresh.module.eval()
    first, second = (each.logits(question.image_key, question.image, question.texts) for each in (learner, fresh))
    assert torch.equal(first, second)


def test_a_target_has_the_weight_of_its_expression_where_losses_are_weighed(tmp_path):
    config = small_config(tmp_path)
    rows = [(0, "a text", {"weight": 0.25})]
    run = build_run(tmp_path / "run", num_shards=1, per_shard=2, rows=lambda number: rows).location.root
    for weighting, due in (("loss", 0.25), ("draw", 1.0)):
        data = config.data.model_copy(update={"weighting": weighting})
        targets, images, _ = open_runs([run], None, data, seed=0)
        dataset = TargetDataset(targets, images, image_format=FORMAT, mask_size=16)
        assert collate(dataset.__getitems__([0, 1])).weights.tolist() == [due, due]


@pytest.mark.parametrize("size", [(32, 32), (48, 32), (20, 64), (100, 30), (1, 40)])
def test_a_mask_comes_back_where_it_was(size):
    height, width = size
    mask = torch.zeros(size, dtype=torch.bool)
    mask[height // 4 : max(height // 2, height // 4 + 1), width // 4 : width // 2] = True
    placement = Placement.of(size, 64)
    shares = placement.mask(mask, 64)
    assert shares.shape == (64, 64)
    assert (shares >= 0).all()
    assert (shares <= 1).all()
    back = on_image((shares - 0.5)[None], placement)[0] > 0
    assert back.shape == mask.shape
    assert (back & mask).sum() / (back | mask).sum() > 0.8


def test_an_image_is_scaled_to_fit_and_framed():
    placement = Placement.of((10, 20), 40)
    square = placement.image(torch.full((3, 10, 20), 200, dtype=torch.uint8), (0.0, 0.5, 1.0))
    assert (placement.inner, placement.top, placement.left) == ((20, 40), 10, 0)
    assert square[:, 0, 0].tolist() == [0, 128, 255]
    assert (square[:, 10:30] == 200).all()
