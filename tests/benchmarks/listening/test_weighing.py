"""Weights of a few scenes are judged on all others; what is not fitted stays as it ships."""

from dataclasses import dataclass, replace

import pytest

from benchmarks.listening import weighing
from benchmarks.listening.collecting import COMPOSERS
from benchmarks.quality.annotate import SceneSet
from benchmarks.quality.options import Options
from synthworld.scenes import Split
from tests.benchmarks.composing.test_fitting import SCENE, TRUE, image


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
    monkeypatch.setattr(weighing, "COUNTS", (2, 4, 99))
    monkeypatch.setattr(weighing, "NUM_DRAWS", 2)
    monkeypatch.setattr(weighing, "annotated_scenes", lambda options, scenes, setting: [heard] * scenes.count)
    monkeypatch.setattr(weighing, "annotated_chunk", lambda out, scenes, chunk, setting, bound: (heard,) * len(chunk))
    asked = {"test": OneScene(Split.TEST, 3)}
    return weighing.measure_weights(Options(tmp_path, processes=1), OneScene(Split.DEVELOPMENT, 4), asked)


def test_there_is_a_row_for_each_number_of_scenes_there_are_and_one_draw_of_all(rows):
    assert [(row["scenes"], row["draws"]) for row in rows] == [(2, 2), (4, 1)]


def test_each_says_accuracy_yield_and_coverage_of_what_is_composed(rows):
    # The orange circle is the leftmost of all that is orange: three objects, each told by its own noun.
    for row in rows:
        assert row["test"]["accuracy"]["mean"] == 1.0
        assert row["test"]["coverage"]["mean"] == 1.0
        assert row["test"]["yield"]["mean"] > 1.0
    assert rows[-1]["test"]["accuracy"]["std"] is None


def test_bounds_stay_as_they_ship(monkeypatch):
    shipped = COMPOSERS[weighing.COMPOSER]
    plain = image(
        (0, "an orange circle", "circle", 5), (0, "a blue moon", "moon", 1), correctness={True: 0.8, False: 0.3}
    )
    heard = replace(plain, expressions=tuple(replace(each, caption_score=-1.0) for each in plain.expressions))
    fitted = weighing._fitted([SCENE] * 2, [heard] * 2)
    assert fitted.posterior.noun_correctness != shipped.posterior.noun_correctness
    assert (fitted.posterior.min_first, fitted.posterior.unseen) == (0.62, shipped.posterior.unseen)
    assert fitted.max_per_mask == shipped.max_per_mask
