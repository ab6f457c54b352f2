"""Every snippet of the guides on the datasets runs, one after the other, as a reader would paste them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_type_hints

import pytest

from pseudoris.interchange.dataset import PARTS, RisSample
from tests.interchange.dataset.builders import build_run

GUIDES = Path(__file__).parents[3] / "docs" / "guides"
NAMES = ("training.md", "student.md", "data-set.md")


@pytest.mark.slow
def test_the_snippets_run_in_the_order_of_each_page(tmp_path):
    out = build_run(tmp_path / "machine", per_shard=6)
    human = build_run(tmp_path / "human", prefix="human-")
    names = {}
    for page in NAMES:
        text = (GUIDES / page).read_text(encoding="utf-8")
        names[page] = {"OUT": out.location.root, "HUMAN": human.location.root}
        for number, snippet in enumerate(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)):
            exec(compile(snippet, f"{page}, snippet {number + 1}", "exec"), names[page])
    assert names["training.md"]["vocabulary"] >= {"text", "of"}
    # Three shards of twelve masks for two workers, four a batch: six batches and three, of which three were taken.
    assert (len(names["training.md"]["first"]), len(names["training.md"]["rest"])) == (3, 6)
    assert names["student.md"]["sample"]["row_texts"]
    assert (len(names["data-set.md"]["mixed"]), len(names["data-set.md"]["balanced"])) == (36 + 2, 36 + 36)


def test_the_table_of_a_sample_names_every_key_and_part():
    table = (GUIDES / "training.md").read_text(encoding="utf-8").partition("## A sample")[2].partition("## Filters")[0]
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", table, re.MULTILINE)
    keys = {key.strip("`") for cells, _ in rows for key in cells.split(", ")}
    assert keys == set(get_type_hints(RisSample))
    assert {part.strip("`") for _, part in rows} == {*PARTS, "always"}
