"""The parts that annotate, train and ask as they run: real models, a few scenes and steps."""

from __future__ import annotations

import json

import pytest

from experiments.quality import domains, paper_chain, segmenters, semi, student_arms, students
from experiments.quality.parts import Options

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.long]

PARTS = (students.PART, paper_chain.PART, segmenters.PART, semi.PART, domains.PART)
NUM_SCENES = 3
# One more than those of the warm-up.
NUM_STEPS = 51


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    return Options(tmp_path_factory.mktemp("students"), is_quick=True, processes=1, max_scenes=NUM_SCENES)


@pytest.fixture(scope="module")
def results(options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(student_arms, "QUICK_STEPS", NUM_STEPS)
        return {part.name: part.run(options) for part in PARTS}


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_a_result_is_json_and_makes_a_section_and_plots(results, part):
    result = json.loads(json.dumps(results[part.name], allow_nan=False))
    assert part.section(result).startswith("## ")
    assert all(svg.startswith("<svg") for svg in part.plots(result).values())
    assert (result["scenes"], result["test_scenes"]) == (NUM_SCENES, NUM_SCENES)


def test_every_student_is_asked_by_kind_and_in_both_voices(results):
    found = results["students"]
    trained = {
        "naive",
        "distinctive",
        "filtered",
        "probability",
        "reworded",
        "more",
        "best",
        "simulated_people",
    }
    plain = {"best_plain", "simulated_people_plain"}
    untrained = {"random", "zero_shot_sentence", "zero_shot", "zero_shot_places", "ceiling"}
    assert found["arms"].keys() == trained | plain | untrained
    assert found["second_voice"].keys() == {"filtered", "best", "simulated_people"}
    miou = {name: kinds["all"]["value"] for name, kinds in found["kinds"].items()}
    assert max(miou.values()) == miou["ceiling"]
    assert miou["zero_shot_sentence"] > miou["random"]


def test_no_scene_annotated_by_none_has_no_student_alone(results):
    points = {point["share"]: point for point in results["semi"]["points"]}
    assert points[0.0]["alone"] is None
    assert points[1.0]["annotated"] == NUM_SCENES
    # The same trainings as of the part about students, and so not done twice.
    kinds = results["students"]["kinds"]
    assert points[1.0]["alone"]["all"]["value"] == kinds["simulated_people"]["all"]["value"]
    assert points[0.0]["mixed"]["all"]["value"] == kinds["best"]["all"]["value"]


def test_both_worlds_are_annotated_and_asked(results, options):
    found = results["domains"]["arms"]
    assert found.keys() == {"new", "old"}
    assert found["new"] != found["old"]
    names = {path.name.split("-")[0] for path in (options.out / "runs").iterdir()}
    assert {"default", domains.NEW_WORLD} <= names
