"""Pairs with their images, also where an image is gone."""

from dataclasses import replace

import pytest

from pseudoris.schemas.errors import ConfigError
from pseudoris.training.ppt.pairs import LabelFrame, PairDataset, PairSpec, PromptedPairs
from tests.training.dataset.builders import BuiltRun, build_run
from tests.training.ppt.builders import RECIPE

SPEC = PairSpec(num_points=3, frame=LabelFrame(64, 16), is_flipping=False)


def _run(folder, **options) -> BuiltRun:
    rows = [(0, "a star", {**RECIPE, "rival_mask_id": None})]
    return build_run(folder, num_shards=1, per_shard=3, is_embedding=False, rows=lambda number: rows, **options)


def _pairs(run, spec=SPEC, **options) -> PromptedPairs:
    return PromptedPairs([PairDataset(run.location, spec)], **options)


def test_an_image_that_is_held_is_not_read_again(tmp_path) -> None:
    run = _run(tmp_path)
    (run.source / "s0-1.png").unlink()

    assert [each.image for each in _pairs(run, is_held=lambda key: True).__getitems__([0, 1])] == [None, None]


def test_the_next_pair_stands_in_for_one_whose_image_is_gone_and_is_counted(tmp_path) -> None:
    run = _run(tmp_path)
    (run.source / "s0-1.png").unlink()
    pairs = _pairs(run, replace(SPEC, on_bad_image="skip"))

    keys = [each.image_key for each in pairs.__getitems__([0, 1, 2])]

    assert keys[1] == keys[2] != keys[0]
    assert pairs.num_skipped == 1
    assert [each is None for each in pairs.drawn([0, 1, 2])] == [False, True, False]


def test_pairs_without_a_usable_image_are_refused(tmp_path) -> None:
    run = _run(tmp_path)
    for path in run.source.iterdir():
        path.unlink()

    with pytest.raises(ConfigError, match="No image of the 3 pairs can be used"):
        _pairs(run, replace(SPEC, on_bad_image="skip"))[0]
