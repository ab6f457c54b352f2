"""The stage benchmark times the real stages, each fed with the one before."""

import pytest

from benchmarks import stage_throughput
from pseudoris.schemas.config_layers import load_config


@pytest.mark.long
def test_there_is_a_row_a_stage_and_one_for_all():
    rows = stage_throughput.measure(load_config("tiny"), num_images=1, repeats=1)
    assert [row.case.split(",")[0] for row in rows] == ["propose", "caption", "filter", "all stages"]
    assert rows[-1].ours_s == sum(row.ours_s for row in rows[:-1])
