"""Kinds of questions."""

from pathlib import Path

import pytest

from experiments.quality.scene_runs import KINDS, SceneRun, imported_scenes, read_kinds
from pseudoris.synthworld.scenes import Split
from pseudoris.training.evaluation.held_out import HeldOutExpressions


@pytest.mark.slow
@pytest.mark.parametrize("voice", ["first", "second"])
def test_every_expression_of_a_run_has_the_kind_that_its_speaker_meant(tmp_path: Path, voice) -> None:
    run = str(imported_scenes(tmp_path, SceneRun(Split.TEST, 2, first=3, voice=voice)))

    kinds = read_kinds(run)
    questions = HeldOutExpressions(run)
    asked = {each.image_id: set(each.texts) for each in questions}

    assert {name: set(found) for name, found in kinds.items()} == asked
    assert {kind for found in kinds.values() for kind in found.values()} == set(KINDS)
