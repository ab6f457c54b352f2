"""Systems say what their rule says, thresholds follow from scores alone, and each row differs as its name says."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.quality import ladder
from experiments.quality.annotated_scenes import PAPER, SHIPPED, SceneSet
from experiments.quality.ladder import (
    REASONS,
    Draws,
    Everything,
    ScoreTable,
    System,
    Thresholds,
    count_system,
)
from experiments.quality.parts import Options
from pseudoris.schemas.shard import CaptionSample, ExpressionRecord
from pseudoris.synthworld.attributes import Attributes
from pseudoris.synthworld.scene_truth import SceneImageTruth
from pseudoris.synthworld.scenes import Scene, SceneObject, Split
from recipes.scene_shards import scene_image, scene_shard


def item(category, colour, x):
    return SceneObject(Attributes(category, colour, "plain", "large"), (x, 96.0), 24.0, 0.0, (0, 0, 0))


SCENE = Scene(0, 1, (item("circle", "orange", 40.0), item("circle", "blue", 96.0), item("star", "orange", 150.0)))
PAINTED = scene_image(SCENE)
TRUTH = SceneImageTruth(SCENE, PAINTED.masks)
TOP_P = CaptionSample("masked", "top_p", None, 0.5, -1.0)
BEAM = CaptionSample("context_1.0", "beam", None, None, -1.0)
TOP_K = CaptionSample("context_1.0", "top_k", 2, None, -1.0)


def annotated(*said):
    """The scene with its true masks, of which the last is no object's, and (mask, text, distinctiveness, samples)."""
    row = scene_shard([PAINTED], with_true_masks=True).images[0]
    foreign = replace(row.masks[0], mask_id="foreign", index=3)
    ids = [mask.mask_id for mask in row.masks] + ["foreign"]
    expressions = tuple(
        ExpressionRecord((ids[number],), text, samples, distinctiveness=score) for number, text, score, samples in said
    )
    return replace(row, masks=(*row.masks, foreign), expressions=expressions)


IMAGE = annotated(
    (0, "the orange circle", 1.5, (TOP_P,)),
    (0, "a circle", 0.9, (BEAM, TOP_K)),
    (1, "a green circle", 1.2, (TOP_P,)),
    (1, "circle circle", 1.1, (TOP_K,)),
    (2, "a star", None, (TOP_P, TOP_P)),
    (3, "a star", 2.0, (BEAM,)),
)


def figures(system):
    prefix = f"{system.name}/"
    return {name.removeprefix(prefix): pair for name, pair in count_system(TRUTH, IMAGE, system).items()}


def texts(system):
    return [each.text for each in system.said(IMAGE).expressions if each.kept]


def test_each_wrong_expression_has_one_reason():
    found = figures(System("all", "", Everything()))
    assert found["accuracy"] == (2.0, 6.0)
    assert [found[f"wrong.{reason}"] for reason in REASONS] == [(1.0, 6.0)] * 4
    assert found["yield"] == (6.0, 4.0)


def test_a_system_of_some_draws_does_not_know_the_others_candidates():
    assert texts(System("s", "", draws=Draws(("beam",)))) == ["a circle", "a star"]
    assert texts(System("s", "", draws=Draws(crops=("masked",)))) == ["the orange circle", "a green circle", "a star"]
    samplers = Draws(samplers=((2, None),))
    assert texts(System("s", "", draws=samplers)) == ["a circle", "circle circle", "a star"]
    said = System("s", "", draws=Draws(("top_k",))).said(IMAGE)
    assert [each.samples for each in said.expressions] == [(TOP_K,), (TOP_K,)]


@given(
    values=st.lists(st.floats(0.1, 5.0).map(lambda x: round(x, 6)), min_size=1, max_size=60, unique=True),
    num_alone=st.integers(0, 5),
    wanted=st.floats(0.0, 6.0),
)
def test_a_threshold_keeps_what_was_asked_for_as_far_as_it_goes(values, num_alone, wanted):
    columns = {"distinctiveness": np.array(values + [math.nan] * num_alone)}
    table = ScoreTable(columns, num_masks=10)
    found = table.yield_above("distinctiveness", table.threshold_at("distinctiveness", wanted))
    expected = min(max(round(wanted * 10), num_alone), len(values) + num_alone)
    assert found == pytest.approx(expected / 10)


SCENES = SceneSet(Split.DEVELOPMENT, 5)
# Ten masks of ten candidates each; distinctiveness is above 1 for 40 of them.
SCORES = {name: np.linspace(low, low + 1, 100) for name, low in (("uniqueness", 2), ("correctness", 0))}
TABLE = ScoreTable({**SCORES, "distinctiveness": np.linspace(0.2, 1.5, 100)}, 10)


@pytest.fixture
def thresholds(tmp_path, monkeypatch):
    """Thresholds over a fixed table of scores; `asked` has what was read."""
    asked = []

    def read(options, scenes, setting, bound, draws):
        asked.append((scenes, setting.name, bound, draws))
        return TABLE

    monkeypatch.setattr(ladder, "score_table", read)
    found = Thresholds(Options(tmp_path), SCENES, {PAPER: 1.0, SHIPPED: 1.2})
    return found, asked


@pytest.mark.parametrize(("bound", "tau"), [(PAPER, 1.0), (SHIPPED, 1.2)])
def test_single_scores_keep_as_many_as_the_whole_rule_does(thresholds, bound, tau):
    systems = {system.name: system for system in ladder.ladder(thresholds[0])}
    whole = systems[f"{bound}-distinctiveness"]
    assert (whole.rule.threshold, whole.bound) == (tau, bound)
    wanted = TABLE.yield_above("distinctiveness", tau)
    for column in ("uniqueness", "correctness"):
        single = systems[f"{bound}-{column}"]
        assert (single.rule.column, single.bound) == (column, bound)
        assert TABLE.yield_above(column, single.rule.threshold) == pytest.approx(wanted)
