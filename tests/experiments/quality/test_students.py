"""The part about students: baselines on real scenes, and from figures to the page."""

from pathlib import Path
from typing import Any

import pytest

from experiments.quality import students
from experiments.quality.scene_runs import imported_scenes
from pseudoris.synthworld.scenes import Split
from pseudoris.training.learning.evaluator import HeldOutExpressions

pytestmark = pytest.mark.slow


def _figures(miou: float, deviation: float = 0.01) -> dict[str, Any]:
    names = ("miou", "oiou", "p30", "p50", "p70", "p90")
    return {name: {"mean": miou, "std": deviation, "values": [miou, miou]} for name in names}


ARMS = {
    name: _figures(miou)
    for name, miou in {
        "random": 0.1,
        "clip": 0.3,
        "naive": 0.2,
        "distinctive": 0.25,
        "filtered": 0.3,
        "composed": 0.4,
        "truth": 0.5,
    }.items()
}


def _step(value: float) -> dict[str, Any]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01, "seeds": [value - 0.005, value + 0.005]}


STEPS = {"distinctive": _step(0.05), "filtered": _step(0.05), "composed": _step(0.1), "truth": _step(0.1)}
RESULT = {"scenes": 400, "test_scenes": 150, "seeds": 3, "arms": ARMS, "differences": STEPS}


def test_a_row_a_step_with_its_share_of_the_truth() -> None:
    rows = students.section(RESULT).splitlines()

    assert any(row.startswith("| + filter | 0.300 ± 0.010 |") and row.endswith("| 60% |") for row in rows)
    assert any(row.startswith("| people's masks and expressions |") and row.endswith("| 100% |") for row in rows)


def test_what_the_table_says_follows_from_its_figures() -> None:
    text = students.section(RESULT)
    assert "worth +0.050 [+0.040, +0.060], +0.045 to +0.055 by seed; the filter on top" in text
    assert "positions and relations on top of that +0.100" in text
    assert "silent about objects" not in text
    assert "still beats it" not in text
    assert "What it lacks then are outlines" not in text

    clip = {**_figures(0.6), "p30": _figures(0.45)["p30"]}
    lower = {**RESULT, "arms": {**ARMS, "clip": clip}}
    assert "silent about objects" not in students.section(
        {**lower, "differences": {**STEPS, "filtered": _step(-0.005)}}
    )
    text = students.section({**lower, "differences": {**STEPS, "filtered": _step(-0.03)}})
    assert "silent about objects" in text
    assert "still beats it" in text
    assert "What it lacks then are outlines" in text

    text = students.section({**RESULT, "arms": {**ARMS, "clip": _figures(0.6)}})
    assert "still beats it" in text
    assert "What it lacks then are outlines" not in text


def test_the_headline_names_what_was_trained() -> None:
    found = students.headline(RESULT)["student_miou"]

    assert found["naive"] == {"mean": 0.2, "std": 0.01}
    assert found.keys() == {"naive", "distinctive", "filtered", "composed", "truth"}


@pytest.mark.long
def test_clips_choice_beats_a_random_mask_on_real_scenes(tmp_path: Path) -> None:
    run = imported_scenes(tmp_path, split=Split.TEST, num_scenes=2)

    found = students.baselines(HeldOutExpressions(str(run)))

    assert len(found["random"]["miou"]["values"]) == 5
    assert found["clip"]["miou"]["mean"] > found["random"]["miou"]["mean"] > 0
