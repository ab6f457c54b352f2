"""What was counted comes back, and a difference is paired."""

import pytest

from experiments.conformance.arms import (
    ARMS_BY_NAME,
    NUM_SCENES,
    PLAIN,
    ArmCounts,
    difference,
    extended,
    missing,
    read_record,
    write_record,
)

SEED = ARMS_BY_NAME["seed"]
SCENES = ((2.0, 4, 2), (3.0, 3, 1))


def test_counts_come_back_and_go_on_where_they_stopped(tmp_path) -> None:
    counted = extended(extended({}, SEED, SCENES[:1]), SEED, SCENES[1:])
    write_record(counted, tmp_path / "record.json")
    found = read_record(tmp_path / "record.json")
    assert found == {"seed": ArmCounts(SEED.digest(), SCENES)}
    assert list(missing(found, SEED, 4)) == [2, 3]


def test_a_difference_is_that_of_the_same_scenes_and_none_before_all_are_counted() -> None:
    half = NUM_SCENES // 2
    counted = {
        PLAIN: ArmCounts("", ((2.0, 4, 2), (3.0, 4, 2)) * half),
        "seed": ArmCounts("", ((3.0, 4, 2), (4.0, 4, 3)) * half),
    }
    found = difference(counted, SEED)
    assert found is not None
    assert (found.accuracy.value, found.accuracy.low, found.accuracy.high) == (0.25, 0.25, 0.25)
    assert found.yield_.value == pytest.approx(8 / 5 - 2)
    assert found.num_masks == (5 * half, 4 * half)
    assert difference({**counted, "seed": ArmCounts("", SCENES)}, SEED) is None
