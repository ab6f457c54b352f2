"""The page is what is generated, and every row of it holds."""

import ast
from functools import cache
from pathlib import Path

import pytest

from experiments.conformance.arms import ARMS, ARMS_BY_NAME
from experiments.conformance.page import NOT_MEASURED, PAGE, elements, render, value_at

ROOT = Path(__file__).parents[3]
ELEMENTS = list(elements())
EXACT = [each for each in ELEMENTS if each.verdict == "exact"]
DECLARED = [each for each in ELEMENTS if each.verdict == "declared"]


def named(element) -> str:
    return element.name


@cache
def functions_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_the_page_is_what_is_generated() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run `python -m experiments.conformance`"


@pytest.mark.parametrize("element", EXACT, ids=named)
def test_an_exact_element_has_its_value_in_paper_and_a_test_that_exists(element) -> None:
    assert element.settings or element.ours
    assert {path: value_at("paper", path) for path in element.settings} == element.settings
    path, _, test = element.proof.partition("::")
    assert test in functions_in(ROOT / path)
    assert not element.unmeasured


@pytest.mark.parametrize("element", DECLARED, ids=named)
def test_a_declared_element_says_what_it_changes_or_why_that_is_not_measured(element) -> None:
    assert element.settings or element.ours
    assert not element.proof
    assert bool(element.arms) != bool(element.unmeasured)


def test_every_arm_that_is_named_is_one() -> None:
    assert {name for element in ELEMENTS for name in element.arms} <= set(ARMS_BY_NAME)
    assert all(arm.against in ARMS_BY_NAME for arm in ARMS)


def test_an_arm_that_is_not_measured_is_seen_on_the_page() -> None:
    unmeasured = render({})
    assert unmeasured.count(NOT_MEASURED) >= len(ARMS) - 1
