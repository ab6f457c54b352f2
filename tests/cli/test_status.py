"""`pseudoris status` reads the output alone."""

import pytest

from tests.builders.command import NUM_SCENES, pseudoris


@pytest.mark.ray
def test_status_of_a_finished_run_says_complete_and_counts(tiny_run):
    shown = pseudoris("status", str(tiny_run.out))
    assert shown.returncode == 0, shown.stderr
    assert "complete" in shown.stdout
    assert f"{NUM_SCENES} annotated" in shown.stdout
    assert "corrupt" in shown.stdout


def test_status_of_a_folder_without_a_run_says_how_to_start_one(tmp_path):
    shown = pseudoris("status", str(tmp_path))
    assert shown.returncode == 2
    assert "pseudoris annotate" in shown.stderr
