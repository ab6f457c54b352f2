"""What the student is shown: images are told apart by their bytes, whatever the runs call them."""

from __future__ import annotations

import torch

from pseudoris.training.learning.evaluator import HeldOutExpressions
from pseudoris.training.learning.frozen_towers import FrozenTowers
from pseudoris.training.student.student_learner import StudentLearner
from pseudoris.training.student.target_dataset import training_set
from tests.training.dataset.builders import build_run
from tests.training.student.builders import small_config


def two_runs(folder):
    """The other run has the bytes of the first one's first four images, two of them under the ids of others."""
    one = build_run(folder / "one", num_shards=2, per_shard=4)
    other = build_run(folder / "other", num_shards=2, per_shard=2)
    return one.location.root, other.location.root


def test_masks_of_two_runs_come_together_where_their_image_is_the_same_and_only_there(tmp_path):
    config = small_config(tmp_path)
    learner = StudentLearner(config, FrozenTowers(config.towers))
    dataset, _ = training_set(
        two_runs(tmp_path),
        None,
        config.data,
        seed=0,
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
    image_id = other.image_ids[3]
    (before,), (question,) = one.of([image_id]), other.of([image_id])
    assert not torch.equal(before.image, question.image)
    learner = StudentLearner(config, FrozenTowers(config.towers))
    learner.answer(before)
    fresh = StudentLearner(config, FrozenTowers(config.towers))
    fresh.module.eval()
    first, second = (each.logits(question.image_key, question.image, question.texts) for each in (learner, fresh))
    assert torch.equal(first, second)
