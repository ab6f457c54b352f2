"""Annotated scenes are kept on disk once, systems say what their rule says, and a judge may be stricter."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evidence.experiments.quality.annotated_scenes import (
    DISTINCTIVE,
    NUCLEUS,
    SHIPPED,
    SceneSet,
    annotate,
    annotated_chunk,
)
from evidence.experiments.quality.judge import JUDGES, conventions
from evidence.experiments.quality.ladder import ALL_DRAWS, REASONS, Draws, Everything, ScoreTable, System, count_system
from evidence.experiments.quality.parts import Options
from evidence.recipes.scene_shards import scene_image, scene_shard
from pseudoris.schemas.shard import CaptionSample, ExpressionRecord
from pseudoris.synthworld import scene_truth
from pseudoris.synthworld.attributes import Attributes
from pseudoris.synthworld.scene_truth import SceneImageTruth
from pseudoris.synthworld.scenes import SCENE_SIZE_PX, Scene, SceneObject, Split
from pseudoris.workers.captions import CocaCaptioner
from pseudoris.workers.filtering import ClipScorer
from pseudoris.workers.masks import SamProposer
from tests.builders.scene_runs import plain_object as item

DRAWN = SceneSet(Split.DEVELOPMENT, 2)
CHUNK = DRAWN.chunks[0]


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    options = Options(tmp_path_factory.mktemp("quality"), processes=1)
    annotate(options, DRAWN, (DISTINCTIVE, NUCLEUS))
    return options


def cached(options, setting, bound=SHIPPED):
    return annotated_chunk(options.out, DRAWN, CHUNK, setting, bound)


@pytest.fixture(scope="module")
def shard():
    return scene_shard([scene_image(DRAWN.scene(position)) for position in CHUNK])


@pytest.mark.slow
@pytest.mark.parametrize("setting", [DISTINCTIVE, NUCLEUS], ids=lambda setting: setting.name)
@pytest.mark.long
def test_a_cached_annotation_is_the_stages_own(options, shard, setting):
    config = setting.config()
    fresh = CocaCaptioner(config.captions, config.compute)(SamProposer(config.masks, config.compute)(shard))
    fresh = ClipScorer(config.filtering, config.compute)(fresh)
    assert cached(options, setting) == tuple(replace(image, data=b"") for image in fresh.images)


@pytest.mark.slow
def test_what_stands_is_not_computed_again_and_what_is_missing_is(options):
    files = sorted(options.out.rglob("*.arrow"))
    # Masks, and two settings under two bounds.
    assert len(files) == 5
    before = {path: path.stat().st_mtime_ns for path in files}
    lost = next(path for path in files if "nucleus" in str(path) and path.name.endswith("shipped.arrow"))
    held = lost.read_bytes()
    lost.unlink()
    annotate(options, DRAWN, (DISTINCTIVE, NUCLEUS))
    assert lost.read_bytes() == held
    untouched = [path for path in files if "nucleus" not in str(path)]
    assert {path: path.stat().st_mtime_ns for path in untouched} == {path: before[path] for path in untouched}


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
    assert ALL_DRAWS.of(IMAGE) is IMAGE
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


def _scene(*places: tuple[str, float, float]) -> Scene:
    return Scene(
        seed=0,
        index=0,
        objects=tuple(
            SceneObject(
                Attributes(name, "red", "plain", "large"), (x * SCENE_SIZE_PX, y * SCENE_SIZE_PX), 20, 0, (0, 0, 0)
            )
            for name, x, y in places
        ),
    )


@pytest.mark.parametrize(
    ("text", "scene"),
    [
        # Three tenths from the left.
        ("the circle on the left", _scene(("circle", 0.3, 0.5))),
        # 1.75 times as far up as to the left.
        ("the circle left of the star", _scene(("circle", 0.4, 0.2), ("star", 0.6, 0.55))),
    ],
)
def test_a_stricter_judge_finds_nothing_where_the_usual_one_may(text: str, scene: Scene) -> None:
    usual, strict, _ = JUDGES.values()
    with conventions(*strict):
        assert scene_truth.referents(text, scene) == frozenset()
    with conventions(*usual):
        assert scene_truth.referents(text, scene) != frozenset()
    assert usual == (scene_truth.SIDE, scene_truth.MAX_SLANT)


def test_a_judge_with_wider_sides_finds_rivals_where_the_usual_one_finds_one() -> None:
    text, scene = "the circle on the left", _scene(("circle", 0.2, 0.2), ("circle", 0.45, 0.7))
    found = []
    for each in list(JUDGES.values())[::2]:
        with conventions(*each):
            found.append(scene_truth.referents(text, scene))
    assert [len(each) for each in found] == [1, 2]
