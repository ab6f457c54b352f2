"""Select over a data set."""

from dataclasses import replace

import pytest
from lightning_fabric import Fabric

from tests.training.dataset.builders import build_run
from tests.training.ppt.builders import RECIPE, small_config
from training.ppt.encoding import FrozenEncoders
from training.ppt.learner import PointLearner
from training.ppt.pairs import PairDataset, PairSpec
from training.ppt.selection import select_referents

UNDECIDED = {**RECIPE, "rival_mask_id": None, "kept": False}


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
