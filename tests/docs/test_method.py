"""The worked example of docs/records/method.md: what the functions compute, and what a reader computes by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from experiments.method_example import figure, score_table, step, token_table

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_shows_the_tables_and_the_figure_that_the_functions_compute() -> None:
    page = (DOCS / "records" / "method.md").read_text(encoding="utf-8")
    assert token_table() in page
    assert score_table() in page
    assert (DOCS / "records" / "method.svg").read_text(encoding="utf-8") == figure()


def test_the_step_is_the_formula_of_the_page() -> None:
    found = step()
    # cup, red, striped, EOS: z_0 - 0.8 z_1 over the four largest z_0, EOS as in the softmax of z_0.
    parts = [math.exp(each) for each in (2.5 - 2.0, 3.0 - 2.4, 2.0 - 0.0, 1.0 - 0.8)]
    cup, red, striped, _ = (part / sum(parts) for part in parts)
    eos = math.exp(1.0) / sum(math.exp(each) for each in (2.5, 3.0, 2.0, 1.0))
    assert found.distinctive.tolist() == pytest.approx([cup, 0.0, red, striped, eos], abs=1e-6)
    assert found.distinctive.sum() == pytest.approx(0.963, abs=5e-4)
    assert found.drawn == ("red", "striped")
