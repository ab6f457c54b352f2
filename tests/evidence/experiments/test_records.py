"""Records follow from their own figures, and the rules that decide about them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from evidence.experiments.audits import composed_runs
from evidence.experiments.audits.page import BEGIN, END, as_markdown, coverage_chart
from evidence.experiments.audits.populations import POPULATIONS
from evidence.experiments.audits.simulated_audits import (
    ACCURACIES,
    NUM_AUDITS,
    SEARCHED,
    Job,
    failures,
    search,
    simulate,
)
from evidence.experiments.verdicts import MARGIN, interval, variance_over_images, verdict
from pseudoris.images.perceptual_hash import DEFAULT_MAX_DISTANCE
from pseudoris.schemas.estimate import ImageBootstrap

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "evidence" / "experiments" / "results"


def test_the_default_distance_finds_every_copy_that_was_encoded_again_or_resized():
    for found in json.loads((RESULTS / "exclusion.json").read_text(encoding="utf-8"))["sets"].values():
        rates = {kind: rate[str(DEFAULT_MAX_DISTANCE)] for kind, rate in found["copies"].items()}
        assert all(rate > 0.995 for kind, rate in rates.items() if not kind.startswith("cropped"))
        assert found["false_pairs"][str(DEFAULT_MAX_DISTANCE)] <= 1e-5 * found["pairs"]


IMAGES, TRIALS = 60, 1500


def _differences(rng: np.random.Generator, *, of_seeds: float, of_images: float) -> list[tuple[float, float]]:
    """Return the ends of intervals of two sides of five trainings that do not differ."""
    found = []
    counts = np.full(IMAGES, 3.0)
    for _ in range(TRIALS):
        # What is hard for one side is hard for the other, but not quite as much; a training has its own luck.
        own = rng.normal(0, of_images, (2, 1, IMAGES)) + rng.normal(0, of_seeds, (2, 5, 1))
        own = own + rng.normal(0, 0.02, (2, 5, IMAGES))
        sides = own.mean(2)
        variance = variance_over_images(counts * (own[0] - own[1]).mean(0), counts)
        ends = interval(float(sides[0].mean() - sides[1].mean()), sides.tolist(), variance, IMAGES)
        found.append((ends.low, ends.high))
    return found


@pytest.mark.parametrize(("of_seeds", "of_images"), [(0.01, 0.0), (0.01, 0.04), (0.0, 0.04)])
def test_the_interval_of_five_trainings_a_side_covers_the_truth_as_often_as_it_says(of_seeds, of_images) -> None:
    found = _differences(np.random.default_rng(7), of_seeds=of_seeds, of_images=of_images)

    covered = float(np.mean([low <= 0 <= high for low, high in found]))

    # Three standard deviations of 1,500 trials are 0.017.
    assert 0.933 <= covered <= 0.985


def test_no_seed_of_a_bootstrap_moves_an_end_by_the_margin_or_turns_a_verdict() -> None:
    rng = np.random.default_rng(3)
    sums = rng.normal(0.04, 0.08, 100)
    ends = [ImageBootstrap([{"all": (4 * each, 4.0)} for each in sums], seed=seed).ratio("all") for seed in range(10)]

    both = np.array([[each.low, each.high] for each in ends])
    moved = np.abs(both - both.mean(0))

    assert (moved < MARGIN * (ends[0].high - ends[0].low)).all()
    assert {verdict(each.low, each.high, None) for each in ends} == {"above"}
    # By linearisation the ends are the bootstrap's, and no seed is asked for.
    exact = interval(float(sums.mean()), [], variance_over_images(4 * sums, [4.0] * 100), 100)
    assert (exact.low, exact.high) == pytest.approx((ends[0].low, ends[0].high), abs=0.002)


@pytest.mark.parametrize(
    ("low", "high", "trainings", "found"),
    [
        (0.01, 0.03, 5, "above"),
        (-0.03, -0.01, 5, "below"),
        (-0.01, 0.03, 5, "not told apart"),
        # The margin: another seed of a bootstrap, another sixth digit.
        (0.0005, 0.03, 5, "not told apart"),
        (-0.03, -0.0005, 6, "not told apart"),
        (0.01, 0.03, 4, "no verdict"),
        (0.01, 0.03, 1, "no verdict"),
        # Both sides are answers of the same models.
        (0.01, 0.03, None, "above"),
        (None, None, None, "no verdict"),
    ],
)
def test_a_verdict_needs_five_trainings_and_an_interval_clear_of_zero(low, high, trainings, found) -> None:
    assert verdict(low, high, trainings) == found


def test_the_page_shows_what_the_record_of_the_contrast_says():
    record = json.loads((RESULTS / "vlm-contrast.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "records" / "appendix" / "engines.md").read_text(encoding="utf-8")
    for by_masks in record["test"].values():
        for figures in by_masks.values():
            estimate = figures["sampling.accuracy"]
            assert f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]" in page


AUDITS = json.loads((RESULTS / "audits.json").read_text())


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
@pytest.mark.long
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
    assert failures(AUDITS) == []
    # Those of a drawn run have no population of their own (`drawn_run`).
    rows = [row for row in AUDITS if "population" in row]
    assert {(row["population"], row["accuracy"]) for row in rows} == {(n, a) for n in POPULATIONS for a in ACCURACIES}
    assert {row["audits"] for row in rows if row["question"] != SEARCHED or not row["rater_error"]} == {NUM_AUDITS}


def test_the_page_has_the_tables_of_the_record():
    text = (ROOT / "docs/records/appendix/audits.md").read_text()
    assert f"{BEGIN}\n\n{as_markdown(AUDITS)}\n\n{END}" in text
    assert (ROOT / "docs/records/appendix/audits.svg").read_text() == coverage_chart(AUDITS)


def test_an_interval_that_misses_its_coverage_or_width_is_named():
    row = {"question": "accuracy", "population": "weak", "accuracy": 0.9, "design": "audit", "rater_error": 0.0}
    assert failures([{**row, "interval_coverage": 0.95, "mean_width_ratio": 1.1}]) == []
    for broken in ({"interval_coverage": 0.93}, {"mean_width_ratio": 1.2}):
        found = {**row, "interval_coverage": 0.95, "mean_width_ratio": 1.1, **broken}
        assert len(failures([found])) == 1


def test_audits_of_composed_runs_keep_their_promise_and_the_page_has_their_table():
    rows = json.loads((RESULTS / "composed-audits.json").read_text())
    assert min(row["held"] for row in rows) >= 0.95
    assert composed_runs.table(rows) in (ROOT / "docs/records/appendix/audits.md").read_text()
