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
