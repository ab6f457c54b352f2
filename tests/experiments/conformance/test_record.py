"""What was counted comes back."""

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


def test_there_is_no_difference_before_all_scenes_are_counted() -> None:
    whole = ArmCounts("", ((2.0, 4, 2), (3.0, 4, 2)) * (NUM_SCENES // 2))
    assert difference({PLAIN: whole, "seed": whole}, SEED) is not None
    assert difference({PLAIN: whole, "seed": ArmCounts("", SCENES)}, SEED) is None
