"""The tables of docs/records/reliability.md."""

from __future__ import annotations

import pytest

from tests.faults.harness import ROOT
from tests.faults.report import read_record, soak_table, trial_table


@pytest.mark.parametrize(("name", "table"), [("soak", soak_table), ("trials", trial_table)])
def test_the_page_shows_the_record(name, table):
    page = (ROOT / "docs" / "records" / "reliability.md").read_text(encoding="utf-8")
    _, _, rest = page.partition(f"<!-- {name} -->\n")
    record = read_record(ROOT / "tests" / "faults" / f"{name}.jsonl")
    assert rest.partition(f"<!-- /{name} -->")[0].strip() == table(record)


def test_a_kind_has_its_times_and_what_became_of_the_runs_that_met_it():
    row = {"faults": 3, "starts": 2, "lost": 0, "doubled": 0, "bytes_equal": True}
    rows = [{**row, "struck": {"a": 1, "b": 2}}, {**row, "struck": {"b": 3}, "lost": 1, "bytes_equal": False}]
    *_, b, a, everything = soak_table(rows).splitlines()
    assert b == "| b | 5 | 2 | 4 | 1 LOST, BYTES DIFFER |"
    assert a == "| a | 1 | 1 | 2 | equal |"
    assert everything == "| all | 6 | 2 | 4 | 1 LOST, BYTES DIFFER |"
