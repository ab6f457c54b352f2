"""Jobs and their records."""

from dataclasses import replace

import pytest

from experiments.ppt import ablation_jobs
from experiments.ppt.ablation_jobs import jobs_of, measure
from experiments.ppt.ablation_rows import QUICK, AblationRuns

RUNS = AblationRuns("sem", "ref", "h", "truth", "val", None)


@pytest.fixture
def floor(tmp_path):
    """The job of row 1."""
    return jobs_of(QUICK, tmp_path / "trainings", tmp_path / "records", is_pseudo=False)[-1]


def test_a_finished_job_is_not_measured_again_whoever_asks(floor, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(
        ablation_jobs, "floor_figures", lambda job, runs: asked.append(runs) or {"figures": {}, "steps": 0}
    )

    done = measure(replace(floor, runs=RUNS))

    assert floor.is_finished
    assert measure(floor) == done
    assert (done["name"], done["seed"]) == ("floor", 0)
    assert asked == [RUNS]


def test_a_job_that_failed_leaves_no_record(floor, monkeypatch) -> None:
    def fail(job, runs):
        raise OSError("no space")

    monkeypatch.setattr(ablation_jobs, "floor_figures", fail)
    with pytest.raises(OSError, match="no space"):
        measure(replace(floor, runs=RUNS))

    assert not floor.is_finished


def test_a_job_without_a_record_needs_runs(floor) -> None:
    with pytest.raises(ValueError, match=r"floor has no record at .*, and no runs to be measured on"):
        measure(floor)
