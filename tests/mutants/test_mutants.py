"""The list of mutants fits the code, and a break that a test sees is told from one that it does not."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from evidence.experiments.conformance.page import SECTIONS
from tests.mutants.__main__ import outcomes
from tests.mutants.listed import MUTANTS, Mutant, read_mutants

ROOT = Path(__file__).parents[2]
IDS = Mutant(
    "a mask's id of more digits",
    "schemas/ids.py",
    'f"{image}-{index:04d}"',
    'f"{image}-{index:05d}"',
    ("tests/schemas/test_records.py::test_ids_and_names_are_what_they_were",),
)
# What the tests cannot tell from the code.
SAME = replace(IDS, new='f"{image}-{index:0>4d}"')


def test_each_break_has_a_name_of_its_own_and_its_text_stands_once_in_its_file() -> None:
    assert len({each.name for each in MUTANTS}) == len(MUTANTS)
    for each in MUTANTS:
        assert each.applied((ROOT / each.file).read_text(encoding="utf-8")) != each.old
        for file, _, name in (test.partition("::") for test in each.tests):
            assert f"def {name.partition('[')[0]}(" in (ROOT / file).read_text(encoding="utf-8"), each.name


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        ("a.py: {b::c: {name: {old: x, nwe: y, new: z}}}", ValidationError, r"a\.py.*name\.nwe\n.*not permitted"),
        ("a.py: {b::c: {name: {old: x}}}", ValidationError, r"a\.py.*name\.new\n.*required"),
        ("a.py: {b::c: {name: {old: 1, new: y}}}", ValidationError, r"a\.py.*name\.old\n.*valid string"),
        ("a.py: {b::c: {}}\na.py: {b::d: {}}", yaml.YAMLError, r"'a\.py' stands twice"),
    ],
)
def test_a_word_that_is_unknown_missing_or_stands_twice_is_refused(text, error, match) -> None:
    with pytest.raises(error, match=match):
        read_mutants(text)


def test_each_exact_row_of_the_conformance_page_has_a_break_that_its_own_test_must_see() -> None:
    seen = {test for each in MUTANTS for test in each.tests}
    exact = [element for section in SECTIONS for element in section.elements if element.verdict == "exact"]
    assert exact
    assert [element.name for element in exact if element.proof not in seen] == []


@pytest.mark.slow
@pytest.mark.long
def test_what_became_of_a_break_is_told() -> None:
    expected = {
        "killed": [IDS],
        "survived": [SAME],
        "unobservable": [replace(SAME, unobservable="as many digits")],
        "broken": [
            replace(IDS, tests=("tests/mutants/test_nothing.py",)),
            replace(IDS, tests=("tests/mutants/always_fails.py::test_that_fails_without_a_break",)),
        ],
        "not loaded": [replace(IDS, file="viewer/outlines.py", old="from __future__", new="from  __future__")],
    }
    found = outcomes([each for mutants in expected.values() for each in mutants], processes=1)
    assert [each.word for each in found] == [word for word, mutants in expected.items() for _ in mutants], found


@pytest.mark.long
def test_a_tenth_of_all_breaks_another_one_each_day_is_seen() -> None:
    tenth = MUTANTS[date.today().toordinal() % 10 :: 10]
    assert {each.mutant.name for each in outcomes(tenth) if each.word not in ("killed", "unobservable")} == set()
