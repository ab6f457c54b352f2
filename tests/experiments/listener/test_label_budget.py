"""Weights of a few scenes are judged on all others; what is not fitted stays as it ships."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from experiments.listener import listener_gain
from experiments.listener.judged_scenes import SceneRows
from experiments.listener.listener_gain import COUNTS, measure_labels
from experiments.quality.annotated_scenes import SceneSet
from experiments.quality.parts import Options
from pseudoris.schemas.fitted import CONFIDENCE_COLUMNS, Rated
from pseudoris.synthworld.scenes import Split
from tests.experiments.composing.test_posterior_fit import SCENE, TRUE, image


def drawn(seed: int) -> SceneRows:
    draw = np.random.default_rng(seed)
    size = 30
    scores = {name: draw.uniform(0.4, 1.0, size) for name in CONFIDENCE_COLUMNS}
    scores["truth"] = draw.uniform(-2, 0, size)
    scores["caption_score"] = scores["truth"] * 5
    scores["distinctiveness"] = draw.uniform(0.7, 1.5, size)
    is_right = draw.random(size) < 1 / (1 + np.exp(-4 * (scores["truth"] + 1)))
    texts = [f"the {n % 5} thing {n % 7}" for n in range(size)]
    rated = Rated([str(n // 10) for n in range(size)], texts, scores)
    return SceneRows(rated, is_right, np.arange(size) // 10, 3, 4, is_right_by_sentences=is_right[::-1].copy())


@pytest.fixture(scope="module")
def scenes():
    return [drawn(seed) for seed in range(30)]


@pytest.mark.slow
def test_labels_are_counted_from_none_to_all_and_no_verdict_moves_the_first_row(scenes):
    asked = {"test": scenes[20:], "second": scenes[:5]}
    found = measure_labels(scenes[:20], asked, (0.5, 1.0))
    assert [row["scenes"] for row in found if row["rule"] == "all" and row["labels"] == "oracle"] == [
        count for count in COUNTS if count <= 20
    ]
    whole = next(row for row in found if row["scenes"] == 20 and row["labels"] == "oracle")
    assert (whole["draws"], whole["test"]["accuracy"]["std"]) == (1, None)
    few = next(row for row in found if row["scenes"] == 5)
    assert few["test"]["accuracy"]["least"] <= few["test"]["accuracy"]["mean"]
    assert few["candidates_a_scene"] == 30.0
    wrong = [replace(scene, is_right=~scene.is_right) for scene in scenes[:20]]
    again = measure_labels(wrong, asked, (0.5, 1.0))
    assert again[0] == found[0]
    assert again[1] != found[1]


@dataclass(frozen=True)
class OneScene(SceneSet):
    """The same scene again and again."""

    def scene(self, position):
        return SCENE


@pytest.fixture
def rows(monkeypatch, tmp_path):
    said = [(number, f"a {colour} {noun}", noun, 5) for number, (noun, colour) in TRUE.items()]
    said += [(number, f"a {noun}", noun, 5) for number, (noun, _) in TRUE.items()]
    said += [(0, "a blue moon", "moon", 1), (1, "an orange moon", "moon", 1)]
    heard = image(*said, correctness={True: 0.8, False: 0.3})
    scores = {"moon": -9.0}
    expressions = (replace(each, caption_score=scores.get(each.head_noun, -1.0)) for each in heard.expressions)
    heard = replace(heard, expressions=tuple(expressions))
    monkeypatch.setattr(listener_gain, "POSTERIOR_COUNTS", (2, 4, 99))
    monkeypatch.setattr(listener_gain, "NUM_POSTERIOR_DRAWS", 2)
    monkeypatch.setattr(listener_gain, "annotated_scenes", lambda options, scenes, setting: [heard] * scenes.count)
    monkeypatch.setattr(
        listener_gain, "annotated_chunk", lambda out, scenes, chunk, setting, bound: (heard,) * len(chunk)
    )
    asked = {"test": OneScene(Split.TEST, 3)}
    return listener_gain.measure_posterior_labels(Options(tmp_path, processes=1), OneScene(Split.DEVELOPMENT, 4), asked)


def test_each_says_accuracy_yield_and_coverage_of_what_is_composed(rows):
    # The orange circle is the leftmost of all that is orange: three objects, each told by its own noun.
    for row in rows:
        assert row["test"]["accuracy"]["mean"] == 1.0
        assert row["test"]["coverage"]["mean"] == 1.0
        assert row["test"]["yield"]["mean"] > 1.0
    assert rows[-1]["test"]["accuracy"]["std"] is None
