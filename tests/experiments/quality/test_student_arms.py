"""Arms of an experiment with students."""

from dataclasses import replace
from pathlib import Path

import pytest

from experiments.quality.markdown_cells import said_difference
from experiments.quality.parts import Options
from experiments.quality.scene_runs import ALL_KINDS, SceneRun, imported_scenes
from experiments.quality.student_arms import (
    Answered,
    Arm,
    answered,
    train_arms,
)
from pseudoris.synthworld.scenes import Split

ARM = Arm(runs=("out/pseudo",))


@pytest.mark.parametrize(
    "other",
    [
        replace(ARM, runs=("out/pseudo", "out/more")),
        replace(ARM, human="out/true"),
        replace(ARM, assignments=("data.is_kept_only=false",)),
        replace(ARM, seed=1),
        replace(ARM, kind="segmenter"),
    ],
)
def test_whatever_differs_is_trained_anew(other: Arm) -> None:
    assert other.digest() != ARM.digest()


def _asked(ious: list[list[float]], counts: list[int]) -> Answered:
    """Return what two seeds answered to questions of three scenes, all of one kind."""
    empty = [(0.0, 0)] * len(counts)
    answers = []
    for seed in ious:
        own = list(zip(seed, counts, strict=True))
        scenes = {**dict.fromkeys(ALL_KINDS, empty), "all": own, "position": own}
        answers.append({"figures": {"miou": sum(seed) / sum(counts)}, "scenes": scenes})
    return answered({"arm": answers})


def test_a_difference_is_of_the_means_over_seeds_its_interval_over_scenes_and_seeds() -> None:
    counts = [1, 2, 1]
    more, less = (
        _asked(ious, counts) for ious in ([[0.5, 1.0, 0.7], [0.7, 1.2, 0.7]], [[0.4, 0.8, 0.6], [0.5, 1.3, 0.5]])
    )
    both = Answered(
        {"more": more.figures["arm"], "less": less.figures["arm"]},
        {"more": more.scenes["arm"], "less": less.scenes["arm"]},
    )

    found = both.difference("more", "less")

    assert found["value"] == pytest.approx((4.8 - 4.1) / 8)
    assert found["seeds"] == pytest.approx([0.1, 0.075])
    assert found["low"] <= found["value"] <= found["high"]
    assert both.difference("more", "less", "position") == found
    assert said_difference(found).endswith("+0.075 to +0.100 by seed: no verdict, 2 trainings")


@pytest.mark.long
def test_arms_are_trained_once_asked_scene_by_scene_and_taken_again_where_they_stand(tmp_path: Path) -> None:
    run = str(imported_scenes(tmp_path / "run", SceneRun(Split.TEST, 2)))
    words = ("training.num_steps=2", "training.num_warmup_steps=1")
    groups = {"arm": [Arm((run,), assignments=words, seed=seed) for seed in (0, 1)]}
    options = Options(tmp_path / "out", is_quick=True, processes=1)

    found = train_arms(options, groups, run, shown="students")
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.json")}
    again = train_arms(options, groups, run, shown="students")

    assert written == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.json")}
    assert again.figures == found.figures
    assert found.scenes["arm"]["all"].shape == (2, 2, 2)
    sums = found.scenes["arm"]["all"].sum(1)
    assert sum(found.scenes["arm"][kind].sum() for kind in ALL_KINDS if kind != "all") == pytest.approx(sums.sum())
    assert found.figures["arm"]["miou"]["values"] == pytest.approx((sums[:, 0] / sums[:, 1]).tolist(), abs=1e-5)
    assert found.difference("arm", "arm")["value"] == 0.0
