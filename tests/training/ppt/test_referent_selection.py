"""Select, by hand for one pair and over a data set."""

import json
from dataclasses import replace

import pytest
import torch
from lightning_fabric import Fabric

from pseudoris.training.ppt.curriculum import select, select_referents
from pseudoris.training.ppt.pairs import PairDataset, PairSpec
from pseudoris.training.ppt.ppt_learner import FrozenEncoders, PointLearner
from tests.interchange.dataset.builders import build_run
from tests.training.ppt.builders import RECIPE, small_config

UNDECIDED = {**RECIPE, "rival_mask_id": None, "kept": False}


def _columns(*ranges: tuple[int, int]) -> torch.Tensor:
    """Masks (E, 2, 8) of whole columns, from the first to below the second."""
    masks = torch.zeros(len(ranges), 2, 8, dtype=torch.bool)
    for mask, (start, stop) in zip(masks, ranges, strict=True):
        mask[:, start:stop] = True
    return masks


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
    assert select(_columns(*pseudo_masks), _columns(predicted)[0], min_iou=min_iou).tolist() == due


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_pair_whose_image_is_gone_stays_undecided(tmp_path, is_whole) -> None:
    rows = [(at, "the star left of the cup", UNDECIDED) for at in (0, 1)]
    run = build_run(tmp_path / "h", num_shards=1, per_shard=3, is_embedding=False, rows=lambda number: rows)
    if not is_whole:
        (run.source / "s0-1.png").unlink()
    config = small_config(tmp_path)
    learner = PointLearner(config, FrozenEncoders(config))
    spec = PairSpec(num_points=3, frame=learner.encoders.frame, which="undecided")

    # At 0 every pair that is asked has a referent.
    found = select_referents(
        learner,
        [PairDataset(run.location, replace(spec, on_bad_image="skip"))],
        min_iou=0.0,
        fabric=Fabric(accelerator="cpu"),
    )

    assert [at >= 0 for at in found] == [True, is_whole, True]


def test_two_processes_choose_what_one_does_and_both_know_all_of_it(tmp_path) -> None:
    rows = [(at, "the star left of the cup", UNDECIDED) for at in (0, 1)]
    run = build_run(tmp_path / "h", num_shards=1, per_shard=5, rows=lambda number: rows)
    config = small_config(tmp_path)
    learner = PointLearner(config, FrozenEncoders(config))
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
