"""Figures of audits whose right answers are known: verdicts are given by rule on a small run."""

from __future__ import annotations

import numpy as np
import pytest

from pseudoris.audit.audit_folder import MissedLine
from pseudoris.audit.figures import audit_figures, report_chart
from pseudoris.audit.judged_pairs import apply_to
from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.store.sessions.combined_run import combine
from pseudoris.store.sessions.refiltered_run import RuleChange, refilter
from pseudoris.store.tables.open_run import OpenRun
from pseudoris.store.tables.run_reader import Run
from tests.builders.audits import add_answers, drawn_audit, judge, small_audit
from tests.builders.scored_runs import scored_run


@pytest.fixture(scope="module")
def location(tmp_path_factory):
    location = RunLocation.open(str(tmp_path_factory.mktemp("run")))
    scored_run(location)
    return location


@pytest.fixture
def whole(location, tmp_path):
    """An audit of every pair of the run: its figures are the run's own."""
    return drawn_audit(location, tmp_path / "audit", num_pairs=5_000, num_images=500)


def by_text(row):
    return {"the red circle": "right", "a circle": "several"}.get(row["text"], "untrue")


def figures(audit, applied=None):
    return audit_figures(audit, audit.answers(), applied)


def test_an_audit_of_every_pair_gives_the_runs_own_figures(location, whole):
    found = figures(judge(whole, by_text))
    table = Run(location).expressions().to_table().to_pylist()
    kept = [row for row in table if row["kept"]]
    right = [row for row in kept if row["text"] == "the red circle"]
    assert found.accuracy.estimate.value == pytest.approx(len(right) / len(kept))
    masks = len({row["target_mask_ids"][0] for row in right}) / Run(location).masks().count_rows()
    assert found.masks.estimate.value == pytest.approx(masks)
    kinds = {each.name: each.estimate.value for each in found.kinds}
    assert kinds["several"] == pytest.approx(sum(row["text"] == "a circle" for row in kept) / len(kept))
    assert sum(kinds.values()) == pytest.approx(1)


def test_easy_absences_do_not_hide_the_errors_of_texts_of_one_mask(tmp_path, whole):
    audit = small_audit(tmp_path / "small", absences=("the pen", "the cup"), num_pairs=5_000)
    found = figures(judge(audit, lambda row: "right" if not row["mask_ids"] or row["position"] % 2 else "untrue"))
    assert found.one_mask.estimate.value < found.accuracy.estimate.value - 0.05
    assert found.one_mask.num == found.accuracy.num - 16
    assert "accuracy of those of one mask" in report_chart(found)
    assert figures(judge(whole)).one_mask is None


def test_what_a_rater_cannot_say_moves_the_bounds_and_not_the_estimate(whole):
    found = figures(judge(whole, lambda row: "cannot_say" if row["text"] == "a circle" else by_text(row))).accuracy
    assert found.num_undecided > 0
    assert found.worst.value < found.estimate.value < found.best.value


def test_masks_whose_kept_expressions_are_not_all_judged_widen_the_interval_to_both_ends(whole):
    found = figures(judge(whole, lambda row: None if row["position"] % 3 else by_text(row))).masks
    assert found.num_undecided > 0
    assert (found.estimate.low, found.estimate.high) == (found.worst.low, found.best.high)
    assert found.worst.value < found.estimate.value < found.best.value


def test_unanswered_pairs_are_stood_for_by_the_others_of_their_stratum(location, tmp_path):
    audit = drawn_audit(location, tmp_path / "audit", num_pairs=60)
    found = figures(judge(audit, lambda row: by_text(row) if row["position"] < 40 else None))
    assert found.num_judged == 40
    assert 0 < found.accuracy.estimate.low < found.accuracy.estimate.value < found.accuracy.estimate.high < 1


def test_missed_objects_are_a_mean_over_all_images_those_without_masks_too(whole):
    rows = whole.images.to_pylist()
    missed = (MissedLine(image=row["image_id"], clicks=((1, 1),) * (3 if not row["masks"] else 0)) for row in rows)
    add_answers(whole.path, whole.known, missed)
    found = figures(whole)
    empty = np.mean([not row["masks"] for row in rows])
    assert found.missed.estimate.value == pytest.approx(3 * empty)
    assert found.with_missed.estimate.value == pytest.approx(empty)


def test_images_without_an_answer_are_stood_for_by_the_others_of_their_stratum(whole):
    rows = whole.images.to_pylist()
    # Of the images without a mask, in all of which an object is missed, one is answered.
    first = next(row for row in rows if not row["masks"])
    answered = [row for row in rows if row["masks"] or row is first]
    missed = (MissedLine(image=row["image_id"], clicks=((1, 1),) * (not row["masks"])) for row in answered)
    add_answers(whole.path, whole.known, missed)
    empty = np.mean([not row["masks"] for row in rows])
    assert figures(whole).with_missed.estimate.value == pytest.approx(empty)


def test_two_raters_who_differ_are_averaged_and_corrected_for(whole):
    judge(whole, by_text)
    judge(whole, lambda row: "untrue" if row["position"] % 10 == 0 else by_text(row), rater="bob")
    found = figures(whole)
    assert found.checks.num_twice == whole.pairs.num_rows
    assert found.corrected is not None
    assert found.corrected.share.value < found.accuracy.estimate.value


def test_verdicts_go_along_where_ids_stay_and_are_refused_elsewhere(location, whole, tmp_path):
    judge(whole, by_text)
    one, named = RunLocation.open(str(tmp_path / "one")), RunLocation.open(str(tmp_path / "named"))
    combine([("", location)], one)
    combine([("name", location)], named)
    applied = apply_to(OpenRun.at(one), whole)
    assert (applied.num_same, applied.has_same_pairs) == (whole.pairs.num_rows, True)
    assert figures(whole, applied).accuracy.estimate.value == figures(whole).accuracy.estimate.value
    with pytest.raises(ConfigError, match="its images have other ids than those of the runs that it combines"):
        apply_to(OpenRun.at(named), whole)


def test_after_a_refilter_the_audit_speaks_about_what_the_new_run_keeps(location, whole, tmp_path):
    judge(whole, by_text)
    new = RunLocation.open(str(tmp_path / "new"))
    refilter(location, new, RuleChange(tau=1.3))
    applied = apply_to(OpenRun.at(new), whole)
    assert (applied.num_same, applied.has_same_pairs) == (whole.pairs.num_rows, True)
    kept = [row for row in Run(new).expressions().to_table().to_pylist() if row["kept"]]
    found = figures(whole, applied)
    right = sum(row["text"] == "the red circle" for row in kept) / len(kept)
    assert found.accuracy.estimate.value == pytest.approx(right)
    assert found.as_json()["applied"]["num_same"] == applied.num_same
