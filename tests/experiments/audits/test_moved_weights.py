"""The record of `calibrate --audit` on annotated scenes, and the page that shows it."""

from __future__ import annotations

import json
from pathlib import Path

from experiments.audits.moved_weights import BEGIN, COUNTS, END, WORLDS, as_markdown

ROOT = Path(__file__).parents[3]
RECORD = json.loads((ROOT / "experiments/results/audit-weights.json").read_text())


def test_no_audit_of_a_hundred_verdicts_loses_more_than_a_hundredth():
    assert {(row["world"], row["verdicts"]) for row in RECORD} == {(w, n) for w in WORLDS for n in (0, *COUNTS)}
    assert min(row["worst_gain"] for row in RECORD) > -0.01
    assert min(row["gain"] for row in RECORD if row["verdicts"]) > 0


def test_the_page_has_the_table_of_the_record():
    assert f"{BEGIN}\n\n{as_markdown(RECORD)}\n\n{END}" in (ROOT / "docs/audit.md").read_text()
