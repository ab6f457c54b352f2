"""The part about students: rows without training on real scenes, and from figures to the page."""

from pathlib import Path
from typing import Any

import pytest

from experiments.quality import students
from experiments.quality.scene_runs import KINDS, SceneRun, imported_scenes
from pseudoris.synthworld.scenes import Split

pytestmark = pytest.mark.slow

NAMES = (
    *("random", "zero_shot_sentence", "zero_shot", "zero_shot_places", "naive", "distinctive", "filtered"),
    *("probability", "reworded", "more", "best", "simulated_people", "best_plain", "simulated_people_plain", "ceiling"),
)
MIOU = {name: 0.1 + 0.05 * at for at, name in enumerate(NAMES)}


def _figures(miou: float) -> dict[str, Any]:
    return {name: {"mean": miou, "std": 0.01, "values": [miou, miou]} for name in ("miou", "oiou", "p50", "p70")}


def _whole(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


def _step(value: float) -> dict[str, Any]:
    return {**_whole(value), "seeds": [value - 0.005, value + 0.005]}


STEPS = (
    *("distinctive", "filtered", "probability", "reworded", "more", "best", "simulated_people"),
    "filtered - zero_shot",
)
RESULT = {
    "scenes": 400,
    "test_scenes": 300,
    "seeds": 5,
    "arms": {name: _figures(miou) for name, miou in MIOU.items()},
    "kinds": {name: {kind: _whole(miou) for kind in ("all", *KINDS)} for name, miou in MIOU.items()},
    "second_voice": {"best": {kind: _whole(0.4) for kind in ("all", *KINDS)}},
    "annotation": {name: {"accuracy": 0.9, "coverage": 0.5 + 0.05 * at} for at, name in enumerate(NAMES[4:12])},
    "differences": {name: _step(0.05) for name in STEPS} | {"filtered": _step(-0.02)},
    "share": {kind: _whole(0.83) for kind in ("all", *KINDS)},
}


def test_a_row_a_step_with_its_kinds_of_questions_and_the_second_voice() -> None:
    rows = students.section(RESULT).splitlines()

    assert any(row.startswith("| + filter | 2 | 0.400 [0.390, 0.410] | 0.400 | 0.400 | 0.400 |") for row in rows)
    assert any(row.startswith("| … and the composer says more |") and row.endswith("| – |") for row in rows)
    assert any(
        row.startswith("| … of a captioner trained for longer (`tiny-composed`) |")
        and row.endswith("| 0.400 [0.390, 0.410] |")
        for row in rows
    )
    assert any(row.startswith("| the best of SAM's masks |") and row.endswith("| – |") for row in rows)


@pytest.mark.long
def test_without_training_the_noun_beats_a_random_mask_and_nothing_beats_the_ceiling(tmp_path: Path) -> None:
    run = imported_scenes(tmp_path, SceneRun(Split.TEST, 2))

    found = students.untrained(str(run)).figures

    assert len(found["random"]["miou"]["values"]) == 5
    miou = {name: each["miou"]["mean"] for name, each in found.items()}
    assert miou["random"] < miou["zero_shot"] <= miou["ceiling"] == max(miou.values())
