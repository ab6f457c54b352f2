"""A few simulated audits, and the figures of the whole record: what is promised of the intervals holds in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.audits.page import BEGIN, END, as_markdown, coverage_chart
from experiments.audits.populations import POPULATIONS
from experiments.audits.simulated_audits import (
    ACCURACIES,
    NUM_AUDITS,
    SEARCHED,
    Job,
    failures,
    search,
    simulate,
)

ROOT = Path(__file__).parents[3]
RECORD = json.loads((ROOT / "experiments/results/audits.json").read_text())


def test_a_search_says_how_often_the_chosen_rule_reaches_its_target():
    rows = search(Job("clean strata", 0.97, 5))
    assert [(row["design"], row["rater_error"], row["audits"]) for row in rows] == [
        ("fixed sequence", 0.0, 5),
        ("best look", 0.0, 5),
        ("fixed sequence", 0.05, 1),
        ("best look", 0.05, 1),
    ]
    sequence, best, *_ = rows
    assert 0 <= sequence["interval_coverage"] <= 1
    assert 0 <= sequence["chosen"] <= best["chosen"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "accuracy"), [("weak", 0.9), ("few images", 0.97)])
def test_intervals_of_this_code_hold_the_truth(name, accuracy):
    # The record is of 2,000 audits: of 300, the share of intervals that hold the truth lies within 0.04 of it.
    rows = simulate(Job(name, accuracy, 300))
    floors = {("audit", 0.0): 0.91, ("audit, corrected", 0.05): 0.91}
    for row in rows:
        floor = floors.get((row["design"], row["rater_error"]))
        assert floor is None or row["interval_coverage"] >= floor, row
    (asked,) = (
        row for row in rows if row["question"] == "accuracy" and (row["design"], row["rater_error"]) == ("audit", 0.0)
    )
    assert asked["mean_width_ratio"] <= 1.2


def test_the_record_keeps_every_promise():
    assert failures(RECORD) == []
    # Those of a drawn run have no population of their own (`drawn_run`).
    rows = [row for row in RECORD if "population" in row]
    assert {(row["population"], row["accuracy"]) for row in rows} == {(n, a) for n in POPULATIONS for a in ACCURACIES}
    assert {row["audits"] for row in rows if row["question"] != SEARCHED or not row["rater_error"]} == {NUM_AUDITS}


def test_the_page_has_the_tables_of_the_record():
    text = (ROOT / "docs/records/audits.md").read_text()
    assert f"{BEGIN}\n\n{as_markdown(RECORD)}\n\n{END}" in text
    assert (ROOT / "docs/records/audits.svg").read_text() == coverage_chart(RECORD)


def test_an_interval_that_misses_its_coverage_or_width_is_named():
    row = {"question": "accuracy", "population": "weak", "accuracy": 0.9, "design": "audit", "rater_error": 0.0}
    assert failures([{**row, "interval_coverage": 0.95, "mean_width_ratio": 1.1}]) == []
    for broken in ({"interval_coverage": 0.93}, {"mean_width_ratio": 1.2}):
        found = {**row, "interval_coverage": 0.95, "mean_width_ratio": 1.1, **broken}
        assert len(failures([found])) == 1
