"""The composer alone, and the filter stage with it, on scenes, with the shipped weights."""

from dataclasses import replace

import pytest
from pydantic import ValidationError

from pseudoris.schemas.composer_settings import ComposingConfig
from pseudoris.schemas.config_layers import config_hash, load_config
from pseudoris.schemas.ids import mask_id
from pseudoris.schemas.keep_rule import KeepRule
from pseudoris.schemas.shard import SOURCE_COMPOSER, SOURCE_HUMAN
from pseudoris.schemas.shard_blocks import block_to_shard, shard_to_block
from pseudoris.store.checks.expressions import expression_problems
from pseudoris.store.runs.refilter import refiltered
from pseudoris.store.tables.keep_rule import judged
from pseudoris.store.tables.shard_tables import shard_tables
from pseudoris.synthworld.oracle import referents
from pseudoris.synthworld.scene_shards import scene_image, scene_shard
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.workers.captions import CocaCaptioner
from pseudoris.workers.stages import stages_named
from tests.workers.composing.builders import IMAGE_ID, composed, make_image, texts

CIRCLE = {"a photo of a circle": 8, "a photo of a dotted circle": 2}
DOTTED = {"a photo of a dotted circle": 8, "an image of a circle": 2}
STAR = {"a photo of a star": 10}
# Two circles side by side, a star below the right one.
TWO = make_image(((20, 60), DOTTED), ((80, 30), DOTTED), ((80, 80), STAR))


def test_two_masks_of_one_description_are_told_apart_by_place():
    assert texts(TWO, 0, kinds=["position"]) == {
        "the circle on the left",
        "the left of the two circles",
        "the leftmost circle",
    }
    assert texts(TWO, 1, kinds=["position"]) == {
        "the circle on the right",
        "the right of the two circles",
        "the rightmost circle",
    }
    # What nothing else is called needs no place.
    assert texts(TWO, 2) == set()


def test_a_relation_needs_an_anchor_that_its_own_words_single_out():
    assert texts(TWO, 1, kinds=["relation"]) == {"the circle above the star"}
    two_stars = make_image(((20, 30), CIRCLE), ((80, 30), CIRCLE), ((80, 80), STAR), ((20, 80), STAR))
    assert texts(two_stars, kinds=["relation"]) == set()
    # The left circle is above the star as well, for a lenient listener.
    near = make_image(((60, 30), CIRCLE), ((80, 30), CIRCLE), ((80, 80), STAR))
    assert texts(near, kinds=["relation"]) == set()


def test_what_is_nearly_aligned_is_not_told_apart():
    image = make_image(((48, 50), CIRCLE), ((52, 53), CIRCLE))
    assert texts(image, kinds=["position", "relation"]) == set()


def test_a_mask_that_may_be_a_rival_is_one_and_is_not_counted():
    doubtful = {"a photo of a circle": 1, "a photo of a moon": 9}
    image = make_image(((20, 30), CIRCLE), ((60, 30), CIRCLE), ((90, 30), doubtful))
    # The second is the rightmost that surely is a circle, but not if the third is one.
    assert texts(image, 1, kinds=["position"]) == set()
    assert texts(image, 0, kinds=["position"]) == {"the circle on the left", "the leftmost circle"}


def test_a_mask_of_doubtful_noun_or_unlike_it_is_not_spoken_of():
    unsure = {"a photo of a circle": 7, "a photo of a moon": 3}
    assert texts(make_image(((20, 30), unsure), ((80, 30), CIRCLE)), 0) == set()
    # The captioner says circle, the scorer sees a moon.
    image = make_image(((20, 30), {"a circle": 9, "a moon": 1}), ((80, 30), CIRCLE))
    looks = [replace(each, correctness=0.9) if each.text == "a moon" else each for each in image.expressions]
    assert texts(image, 0, kinds=["position"]) != set()
    assert texts(replace(image, expressions=tuple(looks)), 0) == set()
    # A scorer that does not say has no opinion.
    silent = [replace(each, correctness=None) for each in image.expressions]
    assert texts(replace(image, expressions=tuple(silent)), 0, kinds=["position"]) != set()


def test_qualities_part_masks_only_where_they_are_sure():
    plain = {"a photo of a plain circle": 10}
    image = make_image(((20, 30), DOTTED), ((50, 30), DOTTED), ((80, 30), plain))
    assert {"the left of the two dotted circles", "the leftmost dotted circle"} <= texts(image, 0, max_words=1) | texts(
        make_image(((40, 30), DOTTED), ((50, 60), DOTTED), ((20, 30), plain)), 0, max_words=1
    )
    assert not any("dotted" in text for text in texts(image, max_words=0))


def test_groups_are_all_that_a_phrase_is_true_of_and_absences_true_of_nothing():
    red = {"a photo of a red circle": 10}
    blue = {"a photo of a blue star": 10}
    image = make_image(((20, 30), red), ((80, 30), red), ((50, 80), blue))
    found = composed(image, kinds=["group", "none"])
    assert [(each.kind, each.text, each.target_mask_ids) for each in found] == [
        ("group", "the two circles", (mask_id(IMAGE_ID, 0), mask_id(IMAGE_ID, 1))),
        ("none", "the red star", ()),
        ("none", "the blue circle", ()),
    ]
    assert len(composed(image, kinds=["none"], max_per_image=1)) == 1


def test_what_is_composed_is_kept_without_draws_or_scores_and_says_who_wrote_it():
    for each in composed(TWO, kinds=["position", "relation", "group", "none"]):
        assert (each.source, each.kept, each.weight, each.samples) == (SOURCE_COMPOSER, True, 1.0, ())
        scores = (each.uniqueness, each.correctness, each.distinctiveness, each.rival_mask_id)
        assert scores == (None, None, None, None)
        assert each.head_noun in ("circle", "star")


def test_a_mask_has_at_most_as_many_as_are_asked_for_in_different_forms():
    for most in (1, 2, 3):
        found = [each for each in composed(TWO, max_per_mask=most) if each.target_mask_ids == (mask_id(IMAGE_ID, 0),)]
        assert len(found) == most


def test_composing_again_changes_nothing_and_neither_does_what_is_kept():
    first = composed(TWO)
    again = composed(replace(TWO, expressions=TWO.expressions))
    assert first == again
    all_kept = replace(TWO, expressions=tuple(replace(each, kept=True) for each in TWO.expressions))
    assert [each.text for each in composed(all_kept)] == [each.text for each in first]


def test_what_somebody_said_already_is_not_said_again():
    said = composed(TWO, max_per_mask=9)[0]
    by_a_person = replace(said, source=SOURCE_HUMAN)
    image = replace(TWO, expressions=(*TWO.expressions, by_a_person))
    assert said.text not in {
        each.text for each in composed(image, max_per_mask=9) if each.target_mask_ids == said.target_mask_ids
    }


def test_an_image_without_masks_or_draws_gets_nothing():
    assert composed(make_image()) == []
    assert composed(make_image(((20, 30), {}), ((80, 30), {}))) == []


def test_shares_that_would_say_yes_and_no_are_refused():
    with pytest.raises(ValidationError, match=r"max_noun 0.9 is not below min_noun 0.8"):
        ComposingConfig(max_noun=0.9)
    assert ComposingConfig(kinds=("relation", "group", "relation")).kinds == ("group", "relation")


PLAIN = load_config("tiny")
COMPOSING = load_config("tiny", None, ["composing.kinds=[position,relation,group,none]"])
SCENES = [make_scene(Split.DEVELOPMENT, position) for position in (2, 5)]
(FILTER,) = stages_named(("filter",))


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
        numbers = {mask.mask_id: mask.index for mask in image.masks}
        for each in image.expressions:
            if each.source == SOURCE_COMPOSER:
                targets = frozenset(numbers[mask] for mask in each.target_mask_ids)
                yield each.kind, referents(each.text, scene) == targets


@pytest.mark.slow
def test_composed_expressions_mean_what_they_target(done):
    right = [is_right for _, is_right in composed_verdicts(done)]
    assert len(right) >= 15
    assert sum(right) / len(right) >= 0.9


@pytest.mark.slow
def test_without_the_section_the_stage_is_the_scorer_alone(drawn, done):
    plain = FILTER.build(PLAIN)(drawn)
    for image, richer in zip(plain.images, done.images, strict=True):
        assert image.expressions == richer.expressions[: len(image.expressions)]
        assert all(each.source == SOURCE_COMPOSER for each in richer.expressions[len(image.expressions) :])


@pytest.mark.slow
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
