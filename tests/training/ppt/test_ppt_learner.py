"""An answer, what a user sees of it, and which pseudo-masks it selects as referents."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric

from pseudoris.training.learning.mask_overlay import enlargement
from pseudoris.training.ppt.curriculum import select, select_referents
from pseudoris.training.ppt.pairs import PairDataset, PairSpec
from pseudoris.training.ppt.ppt_learner import FrozenEncoders, PointAnswer, PointLearner, draw_answer
from tests.builders.head import free_ports
from tests.interchange.dataset.builders import build_run
from tests.training.ppt.builders import RECIPE, small_config

ROWS = [(at, "the star left of the cup", {**RECIPE, "rival_mask_id": None, "kept": False}) for at in (0, 1)]


def small_learner(folder: Path) -> PointLearner:
    config = small_config(folder)
    return PointLearner(config, FrozenEncoders(config, torch.device("cpu")))


def test_a_wide_image_is_prompted_and_answered_in_its_own_axes(tmp_path) -> None:
    learner = small_learner(tmp_path)
    learner.module.eval()
    image = torch.arange(3 * 20 * 40, dtype=torch.int64).reshape(3, 20, 40).remainder(251).to(torch.uint8)

    answer = learner.predict("wide", image, ["a red star"])

    features = learner.encoders.encode(["wide"], [image], ["a red star"])
    # SAM sees a square of 32 pixels. Width before height, as x before y.
    assert features.sam.input_sizes.tolist() == [[32.0, 16.0]]
    with torch.no_grad():
        logits = learner.module.referent(features).mask_logits
    # The image is the upper half of the square.
    square = F.interpolate(logits[:, None].float(), (32, 32), mode="bilinear", align_corners=False)
    due = F.interpolate(square[..., :16, :32], (20, 40), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(answer.logits, due)


def test_points_are_discs_of_their_kind_where_they_lie_and_the_confidence_is_said() -> None:
    image, places = torch.full((3, 100, 150), 128, dtype=torch.uint8), torch.tensor([[[0.2, 0.3], [0.8, 0.6]]])
    sure = PointAnswer(torch.full((1, 100, 150), -1.0), places, torch.tensor([[True, False]]), torch.tensor([0.75]))
    answers = (sure, replace(sure, confidences=torch.tensor([0.5])))

    picture, unsure = (np.asarray(draw_answer(image, each, "the star").convert("RGB")).astype(int) for each in answers)

    scale = enlargement((100, 150))
    # Beside the sign in the middle of a disc.
    (positive, negative) = (picture[round(y * scale) - 3, round(x * scale) - 3] for x, y in ((30, 30), (120, 60)))
    assert positive[1] > 200 > positive[0]
    assert negative[0] > 200 > negative[1]
    assert abs(picture[round(80 * scale), round(30 * scale)] - 128).max() < 10
    # The sign of a positive point has an upright stroke.
    upright = [picture[round(y * scale) - 3, round(x * scale)] for x, y in ((30, 30), (120, 60))]
    assert upright[0].max() < 60 < upright[1].max()
    assert not np.array_equal(picture, unsure)


def columns(*ranges: tuple[int, int]) -> torch.Tensor:
    """Masks (E, 2, 8) of whole columns, from the first to below the second."""
    places = torch.arange(8).expand(len(ranges), 2, 8)
    starts, stops = torch.tensor(ranges).T[:, :, None, None]
    return (places >= starts) & (places < stops)


@pytest.mark.parametrize(
    ("pseudo_masks", "predicted", "min_iou", "due"),
    [
        # IoUs with columns 2 to 5: 2/6, 3/4, 0. Two of them reach the bound.
        ([(0, 4), (3, 6), (6, 8)], (2, 6), 0.3, [0.0, 1.0, 0.0]),
        ([(0, 4), (3, 6), (6, 8)], (2, 6), 0.75, [0.0, 1.0, 0.0]),
        # Below the bound all stay undecided.
        ([(0, 4), (3, 6), (6, 8)], (2, 6), 0.76, [0.0, 0.0, 0.0]),
        ([(0, 4), (3, 6), (6, 8)], (0, 0), 0.01, [0.0, 0.0, 0.0]),
        # Of equal ones the first.
        ([(0, 4), (0, 4)], (0, 4), 1.0, [1.0, 0.0]),
    ],
)
def test_the_pseudo_mask_of_the_highest_iou_is_the_referent_and_no_other(pseudo_masks, predicted, min_iou, due) -> None:
    assert select(columns(*pseudo_masks), columns(predicted)[0], min_iou=min_iou).tolist() == due


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_pair_whose_image_is_gone_stays_undecided(tmp_path, is_whole) -> None:
    run = build_run(tmp_path / "h", num_shards=1, per_shard=3, is_embedding=False, rows=lambda number: ROWS)
    if not is_whole:
        (run.source / "s0-1.png").unlink()
    learner = small_learner(tmp_path)
    spec = PairSpec(num_points=3, frame=learner.encoders.frame, which="undecided")
    pairs = PairDataset(run.location, replace(spec, on_bad_image="skip"))

    # At 0 every pair that is asked has a referent.
    found = select_referents(learner, [pairs], min_iou=0.0, fabric=Fabric(accelerator="cpu"))

    assert [at >= 0 for at in found] == [True, is_whole, True]


def test_two_processes_choose_what_one_does_and_both_know_all_of_it(tmp_path, monkeypatch) -> None:
    # Left alone, Fabric puts one there that each later launch of this process takes, free or not.
    monkeypatch.setenv("MASTER_PORT", str(free_ports(1)[0]))
    run = build_run(tmp_path / "h", num_shards=1, per_shard=5, rows=lambda number: ROWS)
    learner = small_learner(tmp_path)
    pairs = PairDataset(run.location, PairSpec(num_points=3, frame=learner.encoders.frame, which="undecided"))

    def choose(fabric: Fabric) -> list[int]:
        found = select_referents(learner, [pairs], min_iou=0.0, fabric=fabric)
        (tmp_path / f"{fabric.world_size}-{fabric.global_rank}.json").write_text(json.dumps(found))
        return found

    alone = choose(Fabric(accelerator="cpu"))
    Fabric(accelerator="cpu", devices=2, strategy="ddp_fork").launch(choose)

    # Not the first of them each time, or nothing would tell one pair from another.
    assert set(alone) == {0, 1}
    assert [json.loads((tmp_path / f"2-{rank}.json").read_text()) for rank in (0, 1)] == [alone, alone]
