"""Trials of what a chooser learns from, or with."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import student_trials
from experiments.quality.parts import Options
from experiments.quality.student_arms import Arm
from experiments.student_trials import lengths, refinement


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Options:
    """Runs that nothing is read of."""
    monkeypatch.setattr(student_trials, "pseudo_run", lambda options, scenes, **how: "ours")
    monkeypatch.setattr(student_trials, "best_arm", lambda options, scenes: Arm(("ours",), assignments=("x=1",)))
    monkeypatch.setattr(student_trials, "true_run", lambda options, scenes: f"simulated-{scenes.count}")
    return Options(tmp_path, is_quick=True)


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
