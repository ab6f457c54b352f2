"""The filter stage with the composer behind it, on scenes, with the shipped weights."""

import pytest

from schemas.blocks import block_to_shard, shard_to_block
from schemas.config_loading import config_hash, load_config
from schemas.keeping import KeepRule
from schemas.shard import SOURCE_COMPOSER
from store.expression_checks import expression_problems
from store.keeping import judged
from store.refiltering import refiltered
from store.tables import shard_tables
from synthworld.oracle import referents
from synthworld.scenes import Split, make_scene
from synthworld.shards import scene_image, scene_shard
from workers.captions import CocaCaptioner
from workers.stages import kinds_of

PLAIN = load_config("tiny")
COMPOSING = load_config("tiny", None, ["composing.kinds=[position,relation,group,none]"])
SCENES = [make_scene(Split.DEVELOPMENT, position) for position in (2, 5)]
(FILTER,) = kinds_of(("filter",))


@pytest.fixture(scope="module")
def drawn():
    shard = scene_shard([scene_image(scene) for scene in SCENES], with_true_masks=True)
    return CocaCaptioner(PLAIN.captions, PLAIN.compute)(shard)


@pytest.fixture(scope="module")
def done(drawn):
    return FILTER.build(COMPOSING)(drawn)


def composed_verdicts(shard):
    """The kind of each composed expression, and whether it means what it targets."""
    for scene, image in zip(SCENES, shard.images, strict=True):
        # With the truth's masks a mask's index is its object's number.
        number_of = {mask.mask_id: mask.index for mask in image.masks}
        for each in image.expressions:
            if each.source == SOURCE_COMPOSER:
                targets = frozenset(number_of[mask] for mask in each.target_mask_ids)
                yield each.kind, referents(each.text, scene) == targets


def test_composed_expressions_mean_what_they_target(done):
    right = [is_right for _, is_right in composed_verdicts(done)]
    assert len(right) >= 15
    assert sum(right) / len(right) >= 0.9


def test_without_the_section_the_stage_is_the_scorer_alone(drawn, done):
    plain = FILTER.build(PLAIN)(drawn)
    for image, composed in zip(plain.images, done.images, strict=True):
        assert image.expressions == composed.expressions[: len(image.expressions)]
        assert all(each.source == SOURCE_COMPOSER for each in composed.expressions[len(image.expressions) :])


def test_composed_rows_pass_blocks_tables_and_verify_and_no_threshold_decides_on_them(done):
    assert block_to_shard(shard_to_block(done)) == done
    tables = shard_tables(done, embed_images=False)
    assert list(expression_problems(0, tables)) == []
    table = tables["expressions"]
    is_composed = [source == SOURCE_COMPOSER for source in table["source"].to_pylist()]
    assert any(is_composed)
    assert not any(judged(table)[is_composed])
    strict = refiltered(table, KeepRule(tau=99.0))
    assert sum(strict["kept"].to_pylist()) == sum(is_composed)
    assert [kept for kept, each in zip(strict["kept"].to_pylist(), is_composed, strict=True) if each] == [True] * sum(
        is_composed
    )


def test_by_probability_more_is_said_as_surely_and_each_says_how_sure(drawn, done):
    weighing = load_config("tiny", None, ["composing={max_per_mask: 4, posterior: {}}"])
    shard = FILTER.build(weighing)(drawn)
    said = list(composed_verdicts(shard))
    assert len(said) > len([kind for kind, _ in composed_verdicts(done) if kind in ("position", "relation")])
    assert sum(is_right for _, is_right in said) / len(said) >= 0.9
    assert block_to_shard(shard_to_block(shard)) == shard
    tables = shard_tables(shard, embed_images=False)
    assert list(expression_problems(0, tables)) == []
    table = tables["expressions"]
    confidence = table["confidence"].to_pylist()
    is_composed = [source == SOURCE_COMPOSER for source in table["source"].to_pylist()]
    assert [each is not None for each in confidence] == is_composed
    # What another rule keeps leaves it as it is.
    assert refiltered(table, KeepRule(tau=99.0))["confidence"].to_pylist() == confidence


def test_a_run_without_the_section_has_the_identity_that_it_had():
    assert "composing" not in PLAIN.method()
    assert "composing" not in PLAIN.model_dump(mode="json")
    assert COMPOSING.method()["composing"]["kinds"] == ["group", "none", "position", "relation"]
    assert config_hash(COMPOSING) != config_hash(PLAIN)
    assert type(PLAIN).model_validate(COMPOSING.model_dump(mode="json")) == COMPOSING
    for preset in ("tiny", "base", "paper"):
        assert load_config(preset).composing is None
