"""The segmenter: what it is shown, its losses, its model, and its training on small runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric

from evidence.experiments.segmenter.segmenter_config import LossConfig, SegmenterConfig, load_segmenter_config
from evidence.experiments.segmenter.segmenter_learner import (
    SegmenterLearner,
    TargetDataset,
    collate,
    mask_losses,
    on_image,
)
from evidence.experiments.segmenter.segmenter_training import train_segmenter
from pseudoris.primitives.errors import ConfigError
from pseudoris.training.evaluation.held_out import HeldOutExpressions
from pseudoris.training.learning import open_fabric
from pseudoris.training.learning.checkpoint_folder import load_checkpoint
from pseudoris.training.learning.frozen_towers import FrozenTowers, Placement
from pseudoris.training.learning.token_layers import word_codes
from pseudoris.training.learning.training_data import open_runs
from pseudoris.workers.crops.crops import CropFormat
from tests.interchange.dataset.builders import Row, build_run
from tests.training.checkpoints import weights
from tests.training.chooser.builders import imported_run
from tests.training.ppt.builders import CLIP


def small_config(folder: Path, words: Sequence[str] = (), *, steps: int = 12) -> SegmenterConfig:
    """Return settings of a training of a small random CLIP that takes a second or two."""
    path = folder / "clip.json"
    path.write_text(json.dumps(CLIP), encoding="utf-8")
    towers = [f"towers.architecture={path}", "towers.weights.uri=random:3", "towers.layers=[0, 1]"]
    model = ["width=16", "num_heads=2", "mask_size=16", "stem_width=4", "kernel_width=4", "word_code_width=16"]
    training = [f"num_steps={steps}", "num_warmup_steps=2", "log_every=4", "precision=32-true"]
    given = [*towers, *(f"model.{word}" for word in model), *(f"training.{word}" for word in training)]
    return load_segmenter_config("tiny", None, [*given, "data.images_per_batch=4", "data.masks_per_image=2", *words])


def learner_of(config: SegmenterConfig) -> SegmenterLearner:
    return SegmenterLearner(config, FrozenTowers(config.towers))


@pytest.fixture
def run(tmp_path) -> str:
    """Twelve embedded images with two masks of four kept texts each; where it lies."""
    return build_run(tmp_path / "data").location.root


def two_runs(folder):
    """The other run has the bytes of the first one's first four images, two of them under the ids of others."""
    one = build_run(folder / "one", num_shards=2, per_shard=4)
    other = build_run(folder / "other", num_shards=2, per_shard=2)
    return one.location.root, other.location.root


def test_masks_of_two_runs_come_together_where_their_image_is_the_same_and_only_there(tmp_path):
    config = small_config(tmp_path)
    learner = learner_of(config)
    targets, images, _ = open_runs(two_runs(tmp_path), None, config.data, seed=0)
    form, size = learner.towers.image_format, config.model.mask_size
    dataset = TargetDataset(targets, images, image_format=form, mask_size=size, is_held=learner.holds)
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
    learner = learner_of(config)
    learner.answer(before)
    fresh = learner_of(config)
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
        dataset = TargetDataset(targets, images, image_format=CropFormat(32, (0.5,) * 3, (0.5,) * 3), mask_size=16)
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


def test_an_expression_of_more_weight_counts_more_in_every_part():
    torch.manual_seed(0)
    logits, rough, targets = torch.randn(3, 8, 8), torch.randn(3, 2, 4, 4), torch.rand(3, 8, 8)
    weights = torch.tensor([0.9, 0.0, 0.3])
    found = mask_losses(logits, rough, targets, LossConfig(), weights)
    alone = [mask_losses(*(part[at : at + 1] for part in (logits, rough, targets)), LossConfig()) for at in range(3)]
    for name, value in found.items():
        due = sum(float(weight) * each[name].item() for weight, each in zip(weights, alone, strict=True)) / 1.2
        assert value.item() == pytest.approx(due, rel=1e-5)


def test_an_expression_is_answered_alike_alone_and_among_others(tmp_path):
    texts = ["the red circle", "left star", "the small dotted boat with a tail"]
    learner = learner_of(small_config(tmp_path))
    learner.module.eval()
    image = torch.randint(0, 256, (3, 24, 40), dtype=torch.uint8)
    together = learner.logits("a", image, texts)
    assert together.shape == (3, 24, 40)
    for at, text in enumerate(texts):
        torch.testing.assert_close(learner.logits("a", image, [text])[0], together[at], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_no_two_tokens_of_the_vocabulary_share_a_code():
    codes = word_codes(torch.arange(49408), 64)
    assert set(codes.unique().tolist()) == {-1.0, 1.0}
    assert len(codes.unique(dim=0)) == 49408
    # Fixed for good: trained weights read them.
    assert word_codes(torch.tensor([320]), 8).tolist() == [[1, -1, 1, 1, -1, 1, 1, -1]]
    assert codes[49407].tolist() == plain_code(49407, 64)


def plain_code(token: int, width: int) -> list[int]:
    """SplitMix64 in Python's whole numbers: + where the highest bit is 0."""
    code = []
    for counter in range(1, width + 1):
        state = (token * 2**20 + counter) * 0x9E3779B97F4A7C15 % 2**64
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
        code.append(1 - 2 * (state >> 63))
    return code


@pytest.mark.parametrize("size", [12, 24, 20])
def test_a_mask_size_that_fits_no_patches_is_refused(tmp_path, size):
    config = small_config(tmp_path, [f"model.mask_size={size}"])
    message = rf"model.mask_size={size} must divide .* 32 pixels. It must also be a multiple"
    with pytest.raises(ConfigError, match=message):
        learner_of(config)


@pytest.mark.slow
@pytest.mark.long
def test_a_training_learns_the_masks_that_it_is_shown(tmp_path, run):
    config = small_config(tmp_path, ["training.peak_rate=0.01", "model.dropout=0.0", "training.log_every=1"], steps=80)
    out, losses = tmp_path / "out", []

    def on_step(report):
        losses.append(report.values.get("train/loss"))

    _, summary = train_segmenter(config, [run], out, open_fabric(config.training), val=run, on_step=on_step)
    assert losses[-2] < 0.6 * losses[0]
    assert summary.figures["miou"] > 0.4
    assert json.loads((out / "summary.json").read_text())["figures"]["miou"] == summary.figures["miou"]
    assert list(out.glob("events.out.tfevents.*"))


def test_several_runs_and_a_humans_share_are_one_training_set(tmp_path, run):
    second = build_run(tmp_path / "second", prefix="t", num_shards=1).location.root
    human = imported_run(tmp_path / "human", 4)
    config = small_config(tmp_path, ["data.human_fraction=0.5", "data.human_share=0.4"], steps=6)
    _, summary = train_segmenter(config, [run, second], tmp_path / "out", open_fabric(config.training), human=human)
    assert summary.figures == {}
    settings = json.loads(load_checkpoint(tmp_path / "out" / "checkpoint.pt")["settings"])
    assert (settings["runs"], settings["human"]) == ([run, second], human)


@pytest.mark.long
def test_two_processes_learn_what_one_does_of_uneven_halves(tmp_path, run):
    def rows(number: int) -> list[Row]:
        """Images have one mask or four: the halves of a batch are hardly ever alike."""
        return [(mask, f"text {mask} of {number}", {}) for mask in range(4 if number % 3 == 0 else 1)]

    uneven, val = [build_run(tmp_path / "uneven", prefix="u", rows=rows).location.root], run
    alone, both = (small_config(tmp_path, ["model.dropout=0.0", *words]) for words in ([], ["training.num_devices=2"]))
    # Forked, as `open_fabric` would start the program anew: only how the second process comes to be differs.
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp_fork")
    fabric.launch(lambda each: train_segmenter(both, uneven, tmp_path / "two", each, val=val) and None)
    train_segmenter(alone, uneven, tmp_path / "one", open_fabric(alone.training), val=val)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    # The mean of two halves' means: equal but for rounding, which AdamW's first steps make more of.
    assert all(torch.allclose(one[name], two[name], atol=2e-3) for name in one)
    first, second = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("one", "two"))
    assert first["figures"]["miou"] == pytest.approx(second["figures"]["miou"], abs=0.05)
