"""What stands around the parts: a summary above them, and below what carries over to photographs."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from benchmarks.quality.parts import RECORDS, load_parts, read_record, record_path
from benchmarks.quality.templates import frame


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    records = {part.name: read_record(record_path(RECORDS, part.name)) for part in load_parts()}
    return {name: record.result for name, record in records.items() if record is not None}


def test_without_results_there_is_no_summary_and_no_figure_of_them() -> None:
    head, tail = frame({})
    assert head.startswith("# How good is the annotation")
    assert "In short" not in head
    assert tail.startswith("## On real photographs")
    assert "Here that is" not in tail


def test_the_summary_has_the_figures_of_the_parts(results) -> None:
    head, tail = frame(results)
    shipped = results["ablation"]["test"]["systems"]["shipped-distinctiveness"]
    assert " / ".join(f"{shipped[name]['value']:.2f}" for name in ("accuracy", "yield", "coverage")) in head
    arms = results["students"]["arms"]
    assert f"{arms['filtered']['miou']['mean'] / arms['truth']['miou']['mean']:.0%} of the mIoU" in head
    unlabelled = next(row for row in results["listening"]["labels"] if row["labels"] == "none")["test"]
    assert f"Here that is {unlabelled['accuracy']['mean']:.2f} /" in tail


def test_a_goal_is_reached_by_one_rule_that_has_all_of_it_and_not_by_the_right_candidates(results) -> None:
    apart = copy.deepcopy(results)
    # Each rule lacks one of the three, though not the same.
    for aim in apart["listening"]["aims"]:
        for at, (name, figures) in enumerate(aim["test"]["rules"].items()):
            if name != "right":
                figures[("accuracy", "yield", "coverage")[at % 3]]["value"] = 0.5
    assert "0.95 / 2 / 0.8: not reached" in frame(apart)[0]
    better = copy.deepcopy(apart)
    for name, value in (("accuracy", 0.96), ("yield", 2.1), ("coverage", 0.81)):
        better["listening"]["aims"][0]["test"]["rules"]["all+composer"][name]["value"] = value
    assert "0.95 / 2 / 0.8: reached" in frame(better)[0]
