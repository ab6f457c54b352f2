"""The parts as they run, on a few scenes and steps: real models, the page's tables and plots."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from evidence.experiments.quality import ablation, composition, student_arms, students
from evidence.experiments.quality.annotated_scenes import DISTINCTIVE, PAPER, SHIPPED
from evidence.experiments.quality.ladder import CURVES
from evidence.experiments.quality.parts import Options

# The first has annotated the last one's scenes too.
MEASURED = (ablation.PART, composition.PART)
NUM_SCENES = 3
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The parts without training, on a scene each."""
    options = Options(tmp_path_factory.mktemp("quality"), processes=1, max_scenes=1)
    return {part.name: part.run(options) for part in MEASURED}


@pytest.mark.parametrize("part", MEASURED, ids=lambda part: part.name)
def test_a_result_is_json_and_makes_a_section_with_its_tables_and_plots(measured, part):
    result = json.loads(json.dumps(measured[part.name], allow_nan=False))
    section = part.section(result)
    assert section.startswith("## ")
    for name, svg in part.plots(result).items():
        ElementTree.fromstring(svg)
        assert f"quality-{part.name}-{name}.svg" in section
    tables = [block.splitlines() for block in section.split("\n\n") if block.startswith("|")]
    assert len(tables) >= (2 if part is composition.PART else 5)
    assert all(len({row.count("|") for row in table}) == 1 for table in tables)


def test_the_ladder_stands_on_the_same_scenes_and_filters_keep_less_than_all(measured):
    found = measured["ablation"]
    assert found["scenes"] == {"development": 1, "test": 1, "second": 1, "true_masks": 1}
    systems = found["test"]["systems"]
    assert systems["candidates"]["yield"]["value"] >= systems["distinctive"]["yield"]["value"]
    for bound in (PAPER, SHIPPED):
        kept = systems[f"{bound}-distinctiveness"]["yield"]["value"]
        assert kept <= systems["candidates"]["yield"]["value"]
    assert found["taus"] == {PAPER: 1.0, SHIPPED: DISTINCTIVE.config().filtering.tau}
    assert found["curves"].keys() == {name for name, *_ in CURVES}
    assert found["true_masks"]["settings"]["distinctive-truth-masks:masks.recall_75"]["value"] == 1.0


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """The part that annotates, trains and asks."""
    options = Options(tmp_path_factory.mktemp("students"), is_quick=True, processes=1, max_scenes=NUM_SCENES)
    with pytest.MonkeyPatch.context() as patch:
        # One more than those of the warm-up.
        patch.setattr(student_arms, "QUICK_STEPS", 51)
        return students.PART.run(options)


@pytest.mark.ray
def test_a_part_with_trainings_makes_a_section_and_plots(learnt):
    result = json.loads(json.dumps(learnt, allow_nan=False))
    assert students.PART.section(result).startswith("## ")
    assert all(svg.startswith("<svg") for svg in students.PART.plots(result).values())
    assert (result["scenes"], result["test_scenes"]) == (NUM_SCENES, NUM_SCENES)


@pytest.mark.ray
def test_every_student_is_asked_by_kind(learnt):
    trained = {"naive", "distinctive", "filtered", "probability", "reworded", "more", "best", "simulated_people"}
    plain = {"best_plain", "simulated_people_plain"}
    untrained = {"random", "zero_shot_sentence", "zero_shot", "zero_shot_places", "ceiling"}
    assert learnt["arms"].keys() == trained | plain | untrained
    miou = {name: kinds["all"]["value"] for name, kinds in learnt["kinds"].items()}
    assert max(miou.values()) == miou["ceiling"]
    assert miou["zero_shot_sentence"] > miou["random"]
