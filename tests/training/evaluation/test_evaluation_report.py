"""The report's files: every figure stands in each, and no text from outside is read as markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace

import pytest

from pseudoris.store.location import RunLocation
from pseudoris.synthworld.scene_truth import SceneTruth
from pseudoris.training.evaluation import as_tree, evaluate_run, write_report
from pseudoris.training.evaluation.bootstrap import UNDEFINED
from pseudoris.training.evaluation.evaluation_report import (
    HTML_NAME,
    JSON_NAME,
    MARKDOWN_NAME,
    html,
    image_lines,
    interval_text,
    markdown,
    value_text,
)
from pseudoris.training.evaluation.run_evaluation import FIGURES, MASK_FIGURES, SET_TITLES
from tests.builders.scene_runs import scene_run, scenes

HOSTILE = "</style><script>document.title='owned'</script>|`_x_`"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    location = RunLocation.open(str(tmp_path_factory.mktemp("report") / "run"))
    scene_run(location, scenes(5))
    return evaluate_run(location, SceneTruth(dict(list(scenes(4).items())), "the scenes"))


def test_three_files_hold_the_same_figures(found, tmp_path):
    address = write_report(found, RunLocation.open(str(tmp_path / "report")))
    assert address == str(tmp_path / "report" / HTML_NAME)
    tree = json.loads((tmp_path / "report" / JSON_NAME).read_text())
    assert tree == json.loads(json.dumps(as_tree(found)))
    texts = [(tmp_path / "report" / name).read_text() for name in (MARKDOWN_NAME, HTML_NAME)]
    for text in texts:
        for each in (*FIGURES.values(), *MASK_FIGURES.values()):
            assert each.title in text
        for name in SET_TITLES:
            for figure, about in FIGURES.items():
                assert value_text(found.sets[name][figure], about.digits) in text
                assert interval_text(found.sets[name][figure], about.digits) in text
        assert "not in the truth, such as scene-004.png" in text
        assert "held out of training" in text


def test_json_has_null_for_what_nothing_was_counted_of(found, tmp_path):
    sets = {**found.sets, "beam": dict.fromkeys(FIGURES, UNDEFINED)}
    write_report(replace(found, sets=sets), RunLocation.open(str(tmp_path)))
    tree = json.loads((tmp_path / JSON_NAME).read_text(), parse_constant=pytest.fail)
    assert tree["sets"]["beam"]["accuracy"] == {"value": None, "low": None, "high": None}


def test_names_from_outside_are_no_markup(found):
    hostile = replace(found, run=HOSTILE, images=replace(found.images, unknown_key=HOSTILE), notes=(HOSTILE,))
    page, text = html(hostile), markdown(hostile)
    assert "<script" not in page
    assert page.count("</style>") == 1
    assert "<script" not in text
    assert "\\|\\`\\_x\\_\\`" in text
    assert image_lines(hostile)["run"] == HOSTILE


def test_the_page_needs_nothing_else_and_its_policy_allows_its_own_style_alone(found):
    page = html(found)
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src &#39;sha256-{digest}&#39;" in page
    assert "default-src &#39;none&#39;" in page
    assert not re.search(r"<(script|link|img|iframe)\b|style=|url\(|@import|https?://", page)
    assert "color-scheme: light dark" in style
