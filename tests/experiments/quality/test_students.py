"""The part about students: rows without training on real scenes, and from figures to the page."""

from pathlib import Path

import pytest

from experiments.quality import students
from experiments.quality.scene_runs import SceneRun, imported_scenes
from pseudoris.synthworld.scenes import Split

pytestmark = pytest.mark.slow


@pytest.mark.long
def test_without_training_the_noun_beats_a_random_mask_and_nothing_beats_the_ceiling(tmp_path: Path) -> None:
    run = imported_scenes(tmp_path, SceneRun(Split.TEST, 2))

    found = students.untrained(str(run)).figures

    assert len(found["random"]["miou"]["values"]) == 5
    miou = {name: each["miou"]["mean"] for name, each in found.items()}
    assert miou["random"] < miou["zero_shot"] <= miou["ceiling"] == max(miou.values())
