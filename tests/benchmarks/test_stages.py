"""The stage benchmark times the real stages, each fed with the one before."""

from benchmarks import stages
from schemas.config_loading import load_config


def test_there_is_a_row_a_stage_and_one_for_all():
    rows = stages.measure(load_config("tiny"), num_images=1, repeats=1)
    assert [row.case.split(",")[0] for row in rows] == ["propose", "caption", "filter", "all stages"]
    assert rows[-1].ours_s == sum(row.ours_s for row in rows[:-1])
