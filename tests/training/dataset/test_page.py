"""Every snippet of docs/guides/training.md runs, one after the other, as a reader would paste them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_type_hints

import pytest

from pseudoris.training.dataset import PARTS, RisSample
from tests.training.dataset.builders import build_run

PAGE = Path(__file__).parents[3] / "docs" / "guides" / "training.md"


@pytest.mark.slow
def test_the_snippets_run_in_the_order_of_the_page(tmp_path):
    out = build_run(tmp_path / "machine", per_shard=6)
    human = build_run(tmp_path / "human", prefix="human-")
    snippets = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(snippets) >= 9
    names = {"OUT": out.location.root, "HUMAN": human.location.root}
    for number, snippet in enumerate(snippets):
        exec(compile(snippet, f"{PAGE.name}, snippet {number + 1}", "exec"), names)
    assert names["vocabulary"] >= {"text", "of"}
    # Three shards of twelve masks for two workers, four a batch: six batches and three, of which three were taken.
    assert (len(names["first"]), len(names["rest"])) == (3, 6)
    assert (len(names["mixed"]), len(names["balanced"])) == (36 + 2, 36 + 36)


def test_the_table_of_a_sample_names_every_key_and_part():
    table = PAGE.read_text(encoding="utf-8").partition("## A sample")[2].partition("## Filters")[0]
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", table, re.MULTILINE)
    keys = {key.strip("`") for cells, _ in rows for key in cells.split(", ")}
    assert keys == set(get_type_hints(RisSample))
    assert {part.strip("`") for _, part in rows} == {*PARTS, "always"}
