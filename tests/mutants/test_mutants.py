"""The list of mutants fits the code, and a break that a test sees is told from one that it does not."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from experiments.conformance.page import SECTIONS
from tests.mutants.__main__ import outcomes
from tests.mutants.listed import MUTANTS
from tests.mutants.mutant import Mutant

ROOT = Path(__file__).parents[2]
SCORES = Mutant(
    "uniqueness of the product",
    "workers/filtering/scores.py",
    "uniqueness=c[target, own] /",
    "uniqueness=product[target, own] /",
    ("tests/workers/filtering/test_scores.py",),
)


def test_each_break_has_a_name_of_its_own_and_its_text_stands_once_in_its_file() -> None:
    assert len({each.name for each in MUTANTS}) == len(MUTANTS)
    for each in MUTANTS:
        assert each.applied((ROOT / each.file).read_text(encoding="utf-8")) != each.old
        assert all((ROOT / test.partition("::")[0]).is_file() for test in each.tests), each.name


def test_each_exact_row_of_the_conformance_page_has_a_break_that_its_own_test_must_see() -> None:
    seen = {test for each in MUTANTS for test in each.tests}
    exact = [element for section in SECTIONS for element in section.elements if element.verdict == "exact"]
    assert exact
    assert [element.name for element in exact if element.proof not in seen] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mutant", "word"),
    [
        (SCORES, "killed"),
        (replace(SCORES, new="uniqueness=1 * c[target, own] /"), "survived"),
        (replace(SCORES, new="uniqueness=1 * c[target, own] /", unobservable="a product by one"), "unobservable"),
        (replace(SCORES, tests=("tests/mutants/test_nothing.py",)), "broken"),
        (replace(SCORES, file="workers/masks/rle.py", old="from __future__", new="from  __future__"), "not loaded"),
    ],
)
def test_what_became_of_a_break_is_told(mutant, word) -> None:
    (found,) = outcomes([mutant], processes=1)
    assert found.word == word, found.said


@pytest.mark.long
def test_a_tenth_of_all_breaks_another_one_each_day_is_seen() -> None:
    tenth = MUTANTS[date.today().toordinal() % 10 :: 10]
    assert {each.mutant.name for each in outcomes(tenth) if each.word not in ("killed", "unobservable")} == set()
