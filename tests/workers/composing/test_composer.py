"""The composer alone, and the filter stage with it, on scenes, with the shipped weights."""

from dataclasses import replace

import pytest

from evidence.recipes.scene_shards import scene_image, scene_shard
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.fitted import NounRelations
from pseudoris.schemas.ids import mask_id
from pseudoris.schemas.keep_rule import KeepRule
from pseudoris.schemas.shard import SOURCE_COMPOSER, SOURCE_HUMAN
from pseudoris.schemas.shard_blocks import block_to_shard, shard_to_block
from pseudoris.store.checks.expressions import expression_problems
from pseudoris.store.sessions.refiltered_run import refiltered
from pseudoris.store.tables.judged_expressions import judged
from pseudoris.store.tables.shard_tables import shard_tables
from pseudoris.synthworld.scene_truth import referents
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.workers.captions import CocaCaptioner
from pseudoris.workers.stages import stages_named
from tests.workers.composing.builders import IMAGE_ID, composed, make_image, texts

CIRCLE, STAR = {"a photo of a circle": 40}, {"a photo of a star": 40}
DOTTED = {"a photo of a dotted circle": 30, "an image of a circle": 10}
# Two circles side by side, a star below the right one.
TWO = make_image(((20, 60), DOTTED), ((80, 30), DOTTED), ((80, 80), STAR))


def test_a_relation_tells_apart_what_its_anchor_does():
    assert texts(TWO, 1, kinds=["relation"]) == {"the dotted circle above the star"}
    # The left circle is above the star as well, for a lenient listener; and of two stars neither is an anchor.
    near = make_image(((60, 30), CIRCLE), ((80, 30), CIRCLE), ((80, 80), STAR))
    two_stars = make_image(((20, 30), CIRCLE), ((80, 30), CIRCLE), ((80, 80), STAR), ((20, 80), STAR))
    assert not any(" above " in text for image in (near, two_stars) for text in texts(image, kinds=["relation"]))


RED, BLUE = {"a red circle": 20, "a circle": 5}, {"a blue star": 20, "a star": 5}
FOUR = make_image(((20, 30), RED), ((80, 30), RED), ((50, 70), BLUE), ((50, 90), BLUE))
LENIENT = {"min_first": 0.3, "min_further": 0.3, "unseen": 0.0}


def bank(*texts: str) -> dict:
    return {"uri": "texts.txt", "sha256": "0" * 64, "values": {"texts": texts}}


def absences(image, *texts: str, **settings):
    settings |= {"bank": bank(*texts)} if texts else {}
    found = composed(image, **{"kinds": ["none"], "posterior": LENIENT, **settings})
    return {each.text: each.rival_mask_id for each in found}


def test_an_image_has_at_most_two_groups_and_a_mask_at_most_one_near_absence():
    found = composed(FOUR, kinds=["group", "none"], posterior=LENIENT)
    # Of a red circle and a blue star two words can change, and no absence is said twice.
    assert [each.kind for each in found] == ["group"] * 2 + ["none"] * 2
    assert {(each.text, len(each.target_mask_ids)) for each in found[:2]} == {
        ("the two red circles", 2),
        ("the two blue stars", 2),
    }


def test_a_near_absence_differs_in_a_word_from_what_is_true_of_its_rival():
    near = absences(FOUR)
    words = {mask_id(IMAGE_ID, n): {"red", "circle"} if n < 2 else {"blue", "star"} for n in range(4)}
    assert near.keys() <= {"the red star", "the blue circle"}
    assert {len(words[rival] & set(text.split())) for text, rival in near.items()} == {1}


def test_a_word_changes_for_one_that_stands_in_its_place_and_for_no_other():
    red = {"a small red circle": 20, "a red circle": 20, "a circle": 5}
    hat = {"a blue circle with a hat": 20, "a blue circle": 20, "a circle": 5}
    star = {"a small blue star": 20, "a blue star": 20, "a star": 5}
    image = make_image(((20, 30), red), ((80, 30), hat), ((50, 80), star))
    found = [pair for seed in range(30) for pair in absences(image, seed=seed).items()]
    assert ("the small blue circle", mask_id(IMAGE_ID, 0)) in found
    # "Small" and "hat" replace each other beside "circle", in different places: "the hat red circle" is wrong.
    small = {"a small blue circle": 20, "a blue circle": 20, "a circle": 5}
    image = make_image(((20, 30), red), ((80, 30), hat), ((50, 80), small))
    found += [pair for seed in range(30) for pair in absences(image, seed=seed).items()]
    assert all(("hat" in text.split()) == text.endswith("with a hat") for text, _ in found)


def test_what_no_caption_says_of_a_thing_but_a_colour_or_a_size_is_no_near_absence_of_it():
    glass = {"an empty glass": 20, "a glass with a thin stem": 20, "an empty glass with a thin stem": 20}
    image = make_image(
        ((20, 30), glass), ((80, 30), {"a doll": 20, "a small doll": 20}), ((50, 80), {"a full cup": 40})
    )
    found = {text for seed in range(30) for text in absences(image, seed=seed)}
    assert found == {"the small glass", "the small cup"}
    names = NounRelations(wider={"cup": ("glass",)})
    assert "the full glass" in {
        text for seed in range(30) for text in absences(image, seed=seed, posterior={**LENIENT, "names": names})
    }


def test_an_easy_absence_shares_no_word_with_what_was_drawn_and_has_no_rival():
    texts = ("the boat", "the red boat", "the circle", "the small key", "the boat is blue")
    easy = {text for text, rival in absences(FOUR, *texts).items() if rival is None}
    assert easy == {"the boat", "the small key"}


@pytest.mark.parametrize(
    "caption",
    [
        *("a nurse standing next to a boat", "two boats", "a row of boats lying still", "a nurse and a boat"),
        *("un perro negro y un boat", "a nurse with boats"),
    ],
)
def test_what_a_caption_says_beside_its_head_or_of_several_is_no_easy_absence(caption):
    image = make_image(((20, 30), {"a nurse": 40}), ((80, 30), {caption: 40}))
    assert absences(image, "the boat", "the kite").keys() == {"the kite"}


def test_what_several_things_are_is_no_name_of_one_alone():
    image = make_image(((20, 30), {"a goat": 40}), ((80, 30), {"two goats": 40}))
    assert texts(image, 0, kinds=["attribute"], posterior=LENIENT) == set()
    alone = make_image(((20, 30), {"a goat": 40}), ((80, 30), {"two kites": 40}))
    assert texts(alone, 0, kinds=["attribute"], posterior=LENIENT) == {"the goat"}


@pytest.mark.parametrize("several", ["two tvs", "two televisions", "two screens"])
def test_several_things_of_another_name_are_no_less_rivals_of_one(several):
    names = NounRelations(same=(("television", "tv"),), wider={"screen": ("television",)})
    for said in ("television", "tv"):
        image = make_image(((20, 30), {f"a {said}": 40}), ((80, 30), {several: 40}))
        found = composed(image, kinds=["attribute"], posterior={"unseen": 0.0, "names": names})
        assert [each.text for each in found] == []


def test_a_mask_in_two_clothes_is_said_to_wear_one_at_a_time():
    image = make_image(((20, 30), {"a nurse in a green vest and a white scarf": 40}))
    expected = {"the nurse", "the nurse in a green vest", "the nurse in a white scarf"}
    assert texts(image, 0, kinds=["attribute"], posterior=LENIENT, max_per_form=9) == expected


def test_neither_a_wider_name_nor_another_name_of_what_was_said_is_an_easy_absence():
    names = NounRelations(same=(("boat", "ship"),), wider={"craft": ("boat", "raft")})
    for said in ("ship", "craft"):
        image = make_image(((20, 30), {f"a nurse on a {said}": 40}), ((80, 30), {f"a {said}": 40}))
        found = absences(image, "the boat", "the kite", posterior={**LENIENT, "names": names})
        assert found.keys() == {"the kite"}


def test_a_word_of_an_attribute_is_no_easy_absence():
    image = make_image(((20, 30), {"a ring with a red flag": 40}))
    assert "the red key" not in absences(image, "the red key", "the small key")


def test_what_has_the_noun_for_an_attribute_changes_in_one_of_both():
    dog, cat = "a dog with a dog", "a dog with a cat"
    image = make_image(((20, 30), {dog: 20, cat: 20}), ((80, 30), {cat: 40}), ((50, 80), {"a man with a dog": 40}))
    found = {text for seed in range(30) for text in absences(image, seed=seed)}
    assert found <= {f"the {one} with a {two}" for one in ("dog", "man") for two in ("dog", "cat")}


def test_a_long_tail_is_a_tail():
    image = make_image(((20, 30), {"a ring with a tail": 40}), ((80, 30), {"a star with a long tail": 40}))
    tails = make_image(((20, 30), {"a star with a tail": 40}), ((80, 30), {"a star with a long tail": 40}))
    assert "the star with a tail" not in {text for seed in range(30) for text in absences(image, seed=seed)}
    assert texts(tails, 0, kinds=["attribute"], posterior=LENIENT) == set()


def test_a_mask_of_short_unknown_nouns_gets_a_text_and_one_of_another_language_none():
    image = make_image(((20, 30), {"teapot": 40}), ((80, 30), {"un perro negro": 40}))
    assert texts(image, kinds=["attribute"], posterior=LENIENT) == {"the teapot"}


def test_the_seed_and_the_images_id_alone_decide_which_absences_are_said():
    texts = tuple(f"the {word}" for word in ("boat", "key", "tree", "house", "moon", "ring", "drop", "heart"))
    easy = [absences(FOUR, *texts, seed=seed).keys() for seed in range(8)]
    assert len({tuple(each) for each in easy}) > 1
    assert absences(FOUR, *texts, seed=3) == absences(replace(FOUR, position=9), *texts, seed=3)
    other = replace(FOUR, image_id="f" * 16)
    assert any(absences(other, *texts, seed=n).keys() != easy[n] for n in range(8))


def test_what_is_kept_changes_nothing():
    all_kept = replace(TWO, expressions=tuple(replace(each, kept=True) for each in TWO.expressions))
    assert composed(all_kept) == composed(TWO) != []


def test_what_somebody_said_already_is_not_said_again():
    said = composed(TWO, max_per_mask=9)[0]
    by_a_person = replace(said, source=SOURCE_HUMAN)
    image = replace(TWO, expressions=(*TWO.expressions, by_a_person))
    assert said.text not in {
        each.text for each in composed(image, max_per_mask=9) if each.target_mask_ids == said.target_mask_ids
    }


COMPOSING = load_config("tiny", None, ["composing={kinds: [position, relation, group, none]}"])
SCENES = [make_scene(Split.DEVELOPMENT, position) for position in (2, 5)]
(FILTER,) = stages_named(("filter",))


@pytest.fixture(scope="module")
def drawn():
    shard = scene_shard([scene_image(scene) for scene in SCENES], with_true_masks=True)
    return CocaCaptioner(COMPOSING.captions, COMPOSING.compute)(shard)


@pytest.fixture(scope="module")
def done(drawn):
    return FILTER.build(COMPOSING)(drawn)


@pytest.mark.slow
def test_without_the_section_the_stage_is_the_scorer_alone(drawn, done):
    plain = FILTER.build(load_config("tiny"))(drawn)
    for image, richer in zip(plain.images, done.images, strict=True):
        assert image.expressions == richer.expressions[: len(image.expressions)]
        assert all(each.source == SOURCE_COMPOSER for each in richer.expressions[len(image.expressions) :])


@pytest.mark.slow
def test_composed_expressions_mean_what_they_target(done):
    right = []
    for scene, image in zip(SCENES, done.images, strict=True):
        # With the truth's masks a mask's index is its object's number.
        numbers = {mask.mask_id: mask.index for mask in image.masks}
        for each in image.expressions:
            if each.source == SOURCE_COMPOSER:
                targets = frozenset(numbers[mask] for mask in each.target_mask_ids)
                right.append(referents(each.text, scene) == targets)
    assert len(right) >= 15
    assert sum(right) / len(right) >= 0.9


@pytest.mark.slow
def test_composed_rows_pass_blocks_tables_and_verify_and_no_threshold_decides_on_them(done):
    assert block_to_shard(shard_to_block(done)) == done
    tables = shard_tables(done, embed_images=False)
    assert [what for what, details in expression_problems(tables) for _ in details] == []
    table = tables["expressions"]
    is_composed = [source == SOURCE_COMPOSER for source in table["source"].to_pylist()]
    assert any(is_composed)
    assert [each is not None for each in table["confidence"].to_pylist()] == is_composed
    assert not any(judged(table)[is_composed])
    strict = refiltered(table, KeepRule(tau=99.0))
    assert strict["kept"].to_pylist() == is_composed
    assert strict["confidence"].equals(table["confidence"])
