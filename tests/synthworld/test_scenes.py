import itertools

import numpy as np
import pytest

from pseudoris.synthworld.attributes import is_held_out
from pseudoris.synthworld.scenes import (
    MAX_OBJECTS,
    MIN_OBJECTS,
    SCENE_SIZE_PX,
    Split,
    generator,
    make_scene,
    scene_index,
)


def test_the_generator_gives_the_same_numbers_on_every_machine():
    assert generator(3, 5, stream=1).integers(0, 2**32, size=3).tolist() == [2290732017, 3063285745, 3690250145]


def test_splits_share_no_index():
    last = {split: scene_index(split, 999_999) for split in Split}
    first = {split: scene_index(split, 0) for split in Split}
    ranges = sorted((first[split], last[split]) for split in Split)
    assert all(one[1] < other[0] for one, other in itertools.pairwise(ranges))


def test_training_scenes_hold_no_held_out_pair_and_test_scenes_do():
    def held_out(split):
        objects = [item.attributes for position in range(150) for item in make_scene(split, position).objects]
        return np.mean([is_held_out(a.category, a.colour) for a in objects])

    assert held_out(Split.TRAIN) == 0
    assert held_out(Split.TEST) > 0.1


@pytest.mark.parametrize("split", list(Split))
def test_objects_are_two_to_ten_distinct_and_inside(split):
    counts = []
    for position in range(60):
        scene = make_scene(split, position)
        words = [item.attributes for item in scene.objects]
        counts.append(len(words))
        assert MIN_OBJECTS <= len(words) <= MAX_OBJECTS
        assert len(set(words)) == len(words)
        for item in scene.objects:
            assert all(0.9 * item.radius_px <= c <= SCENE_SIZE_PX - 0.9 * item.radius_px for c in item.centre_xy_px)
    assert max(counts) >= 8
