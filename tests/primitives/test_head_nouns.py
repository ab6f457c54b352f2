"""The table `head_nouns.tsv`: expressions checked by hand, one by one.

`dev` rows were written with the rules. `held` rows were written before the rules had seen them; `mended` marks
those that failed at first sight and led to a better rule, `miss` what the rules are known to get wrong, with the
right answer as the expected value.
"""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.head_nouns import head_noun, noun_phrases, noun_prompt
from pseudoris.schemas.config import FilterConfig, WeightsConfig
from pseudoris.workers.filtering.spacy_nouns import noun_finder


class Row(NamedTuple):
    part: str
    expression: str
    head: str | None
    note: str


LINES = Path(__file__).with_name("head_nouns.tsv").read_text(encoding="utf-8").splitlines()
TABLE = [
    Row(row["part"], row["expression"], row["head"] or None, row["note"])
    for row in csv.DictReader(LINES, delimiter="\t", quoting=csv.QUOTE_NONE)
]
CASES = [
    pytest.param(row, id=row.expression, marks=[pytest.mark.xfail(strict=True)] if row.note == "miss" else [])
    for row in TABLE
]


@pytest.mark.parametrize("row", CASES)
def test_the_head_is_what_a_person_says_it_is(row):
    assert head_noun(row.expression) == row.head


def test_at_first_sight_the_rules_got_95_percent_of_the_held_rows():
    held = [row for row in TABLE if row.part == "held"]
    wrong = [row for row in held if row.note]
    assert len(held) >= 200
    assert 1 - len(wrong) / len(held) >= 0.95


def test_spacy_where_it_is_not_installed_is_refused_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'pseudoris[spacy]' && python -m spacy download")):
        noun_finder(FilterConfig(architecture="RN50", weights=WeightsConfig(uri="random:0"), nouns="spacy"))


@pytest.mark.parametrize(
    ("text", "noun", "prompt"),
    [
        ("a red circle", "circle", "a photo of a circle"),
        ("two dogs", "dogs", "a photo of a dogs"),
        ("left", None, "a photo of a left"),
        ("the far right", None, "a photo of the far right"),
        ("a blue and white", None, "a photo of a blue and white"),
        ("two in the back", None, "a photo of two in the back"),
        ("his left", None, "a photo of his left"),
    ],
)
def test_the_prompt_has_one_article_and_falls_back_to_the_caption(text, noun, prompt):
    assert noun_prompt(text, noun) == prompt


@pytest.mark.slow
@given(st.text(max_size=60))
def test_any_text_has_a_head_of_its_own_words_or_none(text):
    head = head_noun(text)
    assert head is None or (head.strip() == head and head != "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the small red circle to the left of the blue star", ["small red circle", "blue star"]),
        ("a photo of a red circle with a hat", ["red circle", "hat"]),
        ("the leftmost of the two dotted circles", ["dotted circles"]),
        ("the second star from the left", ["star"]),
        ("the star in the middle", ["star"]),
        ("the cup above the star", ["cup", "star"]),
        ("the star left of the star", ["star"]),
        ("a brown dog near the man", ["brown dog", "man"]),
        ("a pair of shoes on the floor", ["shoes", "floor"]),
        ("person riding a horse", ["person", "horse"]),
        ("man in green", ["man"]),
        ("the left one", []),
        ("the red", []),
    ],
)
def test_phrases_keep_what_is_seen_of_the_thing_and_lose_its_surroundings(text, expected) -> None:
    assert noun_phrases(text) == expected
