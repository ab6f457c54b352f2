"""Trials of what a chooser learns from, or with."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import student_trials
from experiments.quality.parts import Options
from experiments.quality.student_arms import Arm
from experiments.student_trials import Tried, lengths, refinement, table


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Options:
    """Runs that nothing is read of."""
    monkeypatch.setattr(student_trials, "pseudo_run", lambda options, scenes, **how: "ours")
    monkeypatch.setattr(student_trials, "best_arm", lambda options, scenes: Arm(("ours",), assignments=("x=1",)))
    monkeypatch.setattr(student_trials, "true_run", lambda options, scenes: f"simulated-{scenes.count}")
    return Options(tmp_path, is_quick=True)


def test_seeds_share_all_but_their_number_and_a_trial_has_fewer_steps(options):
    seeds = Tried(Arm(("run",), assignments=("data.tau=1",)), steps=600).seeded(options, 2)
    assert [arm.seed for arm in seeds] == [0, 1]
    assert {arm.assignments for arm in seeds} == {("data.tau=1", "training.num_steps=120")}


def test_a_refinement_is_compared_with_the_same_annotation_without_one(options):
    rows = dict(refinement(options))
    compared = {name: row.beside for name, row in rows.items() if row.beside is not None}
    assert len(compared) == 3
    for name, beside in compared.items():
        assert rows[name].arm.runs == rows[beside].arm.runs
        assert rows[name].arm.human == rows[beside].arm.human
        assert set(rows[name].arm.assignments) - set(rows[beside].arm.assignments) == {"refinement.is_on=true"}


def test_lengths_are_of_what_annotators_gave_whole_or_in_part(options):
    rows = dict(lengths(options))
    assert {row.arm.human for row in rows.values()} == {None, "simulated-4"}
    for row in rows.values():
        if row.beside is not None:
            assert rows[row.beside].steps == (row.steps if row.arm.human else 300)


def test_the_table_says_what_a_row_is_compared_with():
    figure = {"value": 0.5, "low": 0.4, "high": 0.6}
    kinds = {kind: figure for kind in ("all", "attribute", "position", "relation")}
    rows = {
        "a": {**kinds, "p90": 0.1, "beside": None, "difference": None},
        "b": {**kinds, "p90": 0.2, "beside": "a", "difference": {"value": 0.01, "low": -0.01, "high": 0.03}},
    }
    first, second = table({"rows": rows}).splitlines()[2:]
    assert first.startswith("| a | 0.500 [0.400, 0.600] |")
    assert "+0.010 [-0.010, +0.030] to *a*" in second
