"""The rows of the ablation: each differs from the one before it by what its name says, at thresholds of development."""

import numpy as np
import pytest

from benchmarks.quality import ladder
from benchmarks.quality.annotate import DISTINCTIVE, NUCLEUS, PAPER, SHIPPED, SceneSet
from benchmarks.quality.counting import ScoreTable
from benchmarks.quality.ladder import CURVE_YIELDS, CURVES, EQUAL_YIELD, Thresholds, curves, on_true_masks, square
from benchmarks.quality.options import Options
from benchmarks.quality.systems import SAMPLING
from synthworld.scenes import Split

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


def test_the_steps_have_names_of_their_own_and_thresholds_from_development_scenes(thresholds):
    found, asked = thresholds
    systems = {system.name: system for system in ladder.ladder(found)}
    assert len(systems) == 4 + 2 * 3 + 1
    assert {scenes for scenes, *_ in asked} == {SCENES}
    assert (systems["beam"].draws.decoders, systems["beam"].setting) == (("beam",), DISTINCTIVE)
    assert (systems["nucleus"].draws.decoders, systems["nucleus"].setting) == (SAMPLING, NUCLEUS)
    assert systems["candidates"].draws.decoders is None


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


def test_the_square_crosses_sampling_and_filter_over_the_samplers_draws(thresholds):
    systems = square(thresholds[0])
    assert len({system.name for system in systems}) == len(systems) == 2 * (2 + 2 * 2)
    assert {system.draws.decoders for system in systems} == {SAMPLING}
    for name, setting in (("nucleus", NUCLEUS), ("distinctive", DISTINCTIVE)):
        assert {system.setting for system in systems if system.name.startswith(f"square-{name}-")} == {setting}
    at_equal_yield = [system for system in systems if system.name.endswith(("paper-yield", "shipped-yield"))]
    assert {TABLE.yield_above("distinctiveness", each.rule.threshold) for each in at_equal_yield} == {EQUAL_YIELD}


def test_curves_say_more_the_more_is_wanted(thresholds):
    systems = curves(thresholds[0])
    assert len(systems) == len(CURVES) * len(CURVE_YIELDS)
    first = [system.rule.threshold for system in systems[: len(CURVE_YIELDS)]]
    assert first == sorted(first, reverse=True)
    # More than there are: everything.
    assert first[-1] == 0.0


def test_on_the_truths_masks_nothing_but_the_masks_differs(thresholds):
    systems = ladder.ladder(thresholds[0])
    for before, after in zip(systems, on_true_masks(systems), strict=True):
        assert after.setting.has_true_masks
        assert after.on(before.setting) == before
