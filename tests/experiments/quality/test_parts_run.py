"""The parts without training as they run, on a scene each: real models, the page's tables and plots."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from experiments.quality import ablation, composition, sweeps
from experiments.quality.annotated_scenes import DISTINCTIVE, PAPER, SHIPPED
from experiments.quality.ladder import CURVES
from experiments.quality.parts import Options

pytestmark = pytest.mark.long

# The first has annotated the last one's scenes too.
PARTS = (ablation.PART, sweeps.PART, composition.PART)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    options = Options(tmp_path_factory.mktemp("quality"), processes=1, max_scenes=1)
    with pytest.MonkeyPatch.context() as patch:
        # Each further share is another captioner to load.
        patch.setattr(sweeps, "SHARES", (0.5,))
        return {part.name: part.run(options) for part in PARTS}


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_a_result_is_json_and_makes_a_section_and_plots(results, part):
    result = json.loads(json.dumps(results[part.name], allow_nan=False))
    section = part.section(result)
    assert section.startswith("## ")
    for name, svg in part.plots(result).items():
        ElementTree.fromstring(svg)
        assert f"quality-{part.name}-{name}.svg" in section
    tables = [block.splitlines() for block in section.split("\n\n") if block.startswith("|")]
    assert len(tables) >= (2 if part is composition.PART else 5)
    assert all(len({row.count("|") for row in table}) == 1 for table in tables)


def test_the_ladder_stands_on_the_same_scenes_and_filters_keep_less_than_all(results):
    found = results["ablation"]
    assert found["scenes"] == {"development": 1, "test": 1, "second": 1, "true_masks": 1}
    systems = found["test"]["systems"]
    assert systems["candidates"]["yield"]["value"] >= systems["distinctive"]["yield"]["value"]
    for bound in (PAPER, SHIPPED):
        kept = systems[f"{bound}-distinctiveness"]["yield"]["value"]
        assert kept <= systems["candidates"]["yield"]["value"]
    assert found["taus"] == {PAPER: 1.0, SHIPPED: DISTINCTIVE.config().filtering.tau}
    assert found["curves"].keys() == {name for name, *_ in CURVES}
    assert found["true_masks"]["settings"]["distinctive-truth-masks:masks.recall_75"]["value"] == 1.0
