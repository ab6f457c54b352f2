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


def test_a_goal_is_reached_where_the_rule_made_for_it_has_all_of_it(results) -> None:
    def said(**changes: float) -> str:
        changed = copy.deepcopy(results)
        for name, value in changes.items():
            changed["listening"]["aims"][-1]["test"]["rules"]["all+weighing composer"][name]["value"] = value
        return frame(changed)[0]

    enough = {"accuracy": 0.96, "yield": 2.1, "coverage": 0.81}
    assert "0.95 / 2 / 0.8: reached" in said(**enough)
    for name in enough:
        assert "0.95 / 2 / 0.8: not reached" in said(**{**enough, name: 0.5})
