"""Other words for the same thing: what is meant stays, and every draw follows from its key."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence.recipes.scene_texts import realise, to_text
from pseudoris.interchange.dataset import RisDataset, RisIterableDataset, SampleSpec
from pseudoris.interchange.dataset.rewording import drawn_forms, forms_of, placed_absence, sentences
from pseudoris.primitives import place_phrases as phrases
from pseudoris.primitives.noun_phrases import noun_phrase
from pseudoris.schemas.shard import SOURCE_COMPOSER
from pseudoris.synthworld.attributes import RELATIONS
from pseudoris.synthworld.grammar import Description, Extreme, NamedObject, Ordinal, parse_reference
from pseudoris.synthworld.scene_truth import ROW_MARGIN_PX, SceneImageTruth, along, referents, row_of
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.workers.composing.likelihood import SIDES
from tests.builders.grefs import absent_texts
from tests.builders.references import nouns, openings, placed, related
from tests.interchange.dataset.builders import build_run, composed_rows
from tests.store.builders import make_expression

scenes = st.sampled_from([make_scene(Split.DEVELOPMENT, position) for position in range(20)])


def means_the_same(text, form):
    """Whether it does in every scene, not in one alone."""
    return with_one_word_a_side(parse_reference(form)) == with_one_word_a_side(parse_reference(text))


def with_one_word_a_side(reference):
    relation = getattr(reference, "relation", None)
    return reference if relation is None else replace(reference, relation=(RELATIONS[relation.phrase], relation.anchor))


def is_side(text, form):
    """Whether a third of the picture became a side before the noun."""
    return isinstance(parse_reference(form), Extreme) and not isinstance(parse_reference(text), Extreme)


def assert_sound(text):
    forms = forms_of(text)
    assert forms[0] == text
    assert len(set(forms)) == len(forms)
    assert all(form.strip() == form != "" and len(form.split()) <= len(text.split()) for form in forms)


@settings(max_examples=30)
@given(st.builds(realise, placed, opening=openings, is_definite=st.booleans()))
def test_forms_of_a_caption_mean_what_it_means(caption):
    assert_sound(caption)
    same = [form for form in forms_of(caption) if not is_side(caption, form)]
    assert all(means_the_same(caption, form) for form in same)
    # At the least with "the", or with no article.
    assert len(same) > 1


@settings(max_examples=30)
@given(related, st.sampled_from(["", "the"]), openings)
def test_forms_of_a_reference_mean_what_it_means(reference, article, opening):
    text = f"{opening} {to_text(reference, article=article)}".strip()
    assert_sound(text)
    assert all(means_the_same(text, form) for form in forms_of(text))


@settings(max_examples=30)
@given(scenes, placed.filter(lambda noun: noun.position is not None), st.data())
def test_a_side_means_the_one_object_of_its_third_unless_another_lies_at_the_border(scene, noun, data):
    item = data.draw(st.sampled_from(scene.objects)).attributes
    noun = Description(item.category, data.draw(st.sampled_from([None, item.colour])), position=noun.position)
    caption = realise(noun, is_definite=True)
    meant = referents(caption, scene)
    if len(meant) != 1:
        return
    (number,) = meant
    row = row_of(replace(noun, position=None), scene)
    own = along(noun.position, scene.objects[number])
    near = {at for at, each in row.items() if own - along(noun.position, each) < ROW_MARGIN_PX}
    assert all(referents(form, scene) == near for form in forms_of(caption) if is_side(caption, form))


@settings(max_examples=30)
@given(nouns, nouns, st.sampled_from(SIDES), st.integers(2, 4))
def test_forms_of_what_is_composed_mean_what_it_means(noun, anchor, side, number):
    phrase, other = (noun_phrase(realise(each), each.category) for each in (noun, anchor))
    texts = [
        *(
            phrases.definite(phrase),
            phrases.extreme(side, phrase),
            phrases.extreme_of(side, number, phrase),
        ),
        *(phrases.ordinal(side, number, phrase), phrases.related(side, phrase, other)),
        phrases.group(number, phrase),
    ]
    for text in filter(None, texts):
        assert_sound(text)
        assert all(means_the_same(text, form) for form in forms_of(text))


@settings(max_examples=30)
@given(st.lists(st.sampled_from(["a", "photo", "of", "the", "red", "is", "left", "on", "-", "star", "'", "two"])))
def test_any_text_is_its_own_first_form_and_none_is_empty(words):
    text = " ".join(words)
    if text:
        assert_sound(text)
    assert forms_of(text)[0] == text


def test_no_two_texts_of_a_mask_become_one_sentence():
    texts = [f"a {kind} of a heart" for kind in ("photo", "picture", "image", "drawing", "close up")]
    said = [make_expression("mask", text) for text in texts]
    firsts = [each[0] for each in sentences("image", said, 1)]
    assert len(set(firsts)) == len(texts)
    # All its forms are taken, so the last one keeps its opening.
    assert firsts[-1] == texts[-1]


@pytest.mark.parametrize(
    ("text", "forms"),
    [
        ("a photo of a dog", {"a dog", "the dog", "dog"}),
        ("a close-up of the man in a red shirt", {"the man in a red shirt", "man in a red shirt"}),
        ("this is a picture of an umbrella", {"an umbrella", "the umbrella", "umbrella"}),
        ("close up of a close up of a hat on a plate", {"a hat on a plate", "the hat on a plate", "hat on a plate"}),
        ("black and white photo of people on skis", {"people on skis"}),
        ("there are two dogs", {"two dogs"}),
        ("There is a photo of a dog", {"a dog", "the dog", "dog"}),
        ("a photo of a shot of whiskey", {"a shot of whiskey", "the shot of whiskey", "shot of whiskey"}),
        ("small red star", {"red small star"}),
        ("an aqua star", {"the aqua star", "aqua star"}),
        ("red striped small star", {"small red striped star"}),
        ("the dog on the left", {"dog on the left", "the left dog", "left dog"}),
        ("the second star from the left", {"second star from the left"}),
        ("the leftmost big blue bus", {"leftmost big blue bus", "the leftmost blue big bus", "leftmost blue big bus"}),
        ("the dog below the box", {"dog below the box", "the dog under the box", "dog under the box"}),
        ("dog to the left of a big cat", {"dog left of a big cat"}),
        ("a photo of a dog on a mug", {"the photo of a dog on a mug", "photo of a dog on a mug"}),
    ],
)
def test_people_say(text, forms):
    assert set(forms_of(text)) == {text, *forms}


@pytest.mark.parametrize(
    "text",
    [
        *("the two dogs", "the other dog", "the taller of the two men", "a group of people", "a glass", "the red", "a"),
        *("small orange tree", "small brown bear", "small light blue boat", "small red fire truck"),
        *("leftmost dog", "dog on the far left", "dog on the left of the car", "man with a dog on the left"),
        *("shelf below", "dog below boxes", "dog under the box", "dog left of the cat", "dog on the left of the cat"),
        *("dog below a box to the left of a cat", "dog next to the box", "dog closest to the left of the box"),
        *("hand on the left", "triangle on the right", "arrow on the left", "dog at the top", "", "a  dog", "a dog."),
        *("the dog is red", "a dog sits on a mat", "a man in a red shirt rides a horse", "a man and a woman", "A dog"),
        *("left dog", "very small red star", "a dog, running", "3 dogs", "there is nothing", "this is red"),
    ],
)
def test_where_a_word_may_matter_the_text_stays(text):
    assert forms_of(text) == (text,)


def test_a_draw_follows_from_its_key_and_every_form_comes():
    text, key = "a photo of a dog", {"seed": 1, "mask_id": "m"}

    def drawn(count=1, source="model", **changes):
        return drawn_forms([text] * count, [source] * count, **{"epoch": 0, **key, **changes})

    assert drawn(40) == drawn(40)
    assert drawn(40)[:3] == drawn(3)
    assert set(drawn(40)) == {drawn(epoch=epoch)[0] for epoch in range(40)} == set(forms_of(text))
    assert drawn(source="human", count=9) == [text] * 9


ROWS = [(0, "a photo of a red star", {}), (0, "the red star on the left", {}), (1, "zebra crossing", {})]
SPEC = SampleSpec(parts=("text",), expressions_per_mask=3, rewording=True)


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    return build_run(tmp_path_factory.mktemp("machine"), num_shards=2, rows=lambda number: ROWS).location


def by_mask(samples):
    return {sample["mask_id"]: sample for sample in samples}


@pytest.mark.parametrize("epoch", [0, 3])
def test_both_styles_give_the_same_forms_of_the_rows_that_are_drawn_without(machine, epoch):
    plain, mapped = RisDataset(machine, replace(SPEC, rewording=False)), RisDataset(machine, SPEC)
    stream = RisIterableDataset(machine, SPEC)
    for dataset in (plain, mapped, stream):
        dataset.set_epoch(epoch)
    samples = [mapped[at] for at in range(len(mapped))]
    assert by_mask(samples) == by_mask(stream)
    assert [sample["row_texts"] for sample in samples] == [plain[at]["expressions"] for at in range(len(plain))]
    assert {source for sample in samples for source in sample["sources"]} == {"model", "reworded"}
    for sample in samples:
        for said, row, source in zip(sample["expressions"], sample["row_texts"], sample["sources"], strict=True):
            assert said in forms_of(row)
            assert (source == "reworded") == (said != row)


# What is absent gets a place, and means nothing there either.


OTHERS = ["a photo of a star", "the star above the box", "the leftmost star"]


def placed(text, others=OTHERS, count=400):
    return [placed_absence(text, others, key=7, turn=turn) for turn in range(count)]


def test_half_of_the_draws_keep_the_words_and_the_others_have_every_kind_of_place():
    drawn = placed("the red circle", ["a photo of a star"])
    assert 160 < drawn.count("the red circle") < 240
    assert {
        *("the red circle", "the red circle on the left", "the topmost red circle", "the left of the two red circles"),
        *("the third red circle from the top", "the red circle above the star", "the star below the red circle"),
    } <= set(drawn)
    assert drawn == placed("the red circle", ["a photo of a star"])


def test_the_other_side_of_a_relation_is_a_text_of_the_image_without_a_place():
    related = {text for text in placed("the red circle") if "star" in text}
    assert related
    assert all(text.count("star") == 1 and "box" not in text and "leftmost" not in text for text in related)
    assert not any("star" in text for text in placed("the red circle", []))


@pytest.mark.parametrize(
    "text",
    [
        *("the red circle on the left", "the circle above the star", "the dog is red", "two dogs", "no dog here", ""),
        *("near a dog", "riding a horse", "the half circle", "the second red circle"),
    ],
)
def test_a_text_with_a_place_or_that_is_no_noun_phrase_stays(text):
    assert set(placed(text)) == {text}


def test_on_drawn_scenes_every_placed_absence_means_nothing():
    scenes = [make_scene(Split.TRAIN, at) for at in range(4)]
    kinds = set()
    for at, scene in enumerate(scenes):
        truth = SceneImageTruth(scene)
        others = [f"the {item.attributes.category}" for item in scene.objects]
        for text in absent_texts(scenes, at):
            for drawn in set(placed(text, others, 40)):
                assert truth.referents(drawn) == frozenset(), (text, drawn)
                kinds.add(type(parse_reference(drawn)))
    assert kinds >= {NamedObject, Extreme, Ordinal}


@pytest.fixture(scope="module")
def with_absences(tmp_path_factory):
    *_, (_, _, fields) = composed_rows(0)
    rows = [(0, "the tree", {}), (1, "the leftmost tree", {}), ((), "the red circle", fields)]
    return build_run(tmp_path_factory.mktemp("placed"), rows=lambda number: rows).location


PLACING = SampleSpec(parts=("text",), none=0.5, rewording=True)


def test_a_dataset_places_absences_beside_texts_of_their_image(with_absences):
    mapped, stream, said = RisDataset(with_absences, PLACING), RisIterableDataset(with_absences, PLACING), set()
    for epoch in range(4):
        mapped.set_epoch(epoch)
        stream.set_epoch(epoch)
        absent = {each["mask_id"]: each for each in mapped if not each["num_masks"]}
        assert absent == {each["mask_id"]: each for each in stream if not each["num_masks"]}
        for sample in absent.values():
            assert sample["row_texts"] == ["the red circle"]
            is_row = sample["expressions"] == sample["row_texts"]
            assert sample["sources"] == [SOURCE_COMPOSER if is_row else "reworded"]
            said.update(sample["expressions"])
    assert any(text.endswith("the tree") for text in said)
    assert any(text.startswith("the tree") for text in said)
    assert any("most red circle" in text for text in said)


def test_what_is_there_is_never_placed_and_without_rewording_neither_is_an_absence(with_absences):
    present = {text for each in RisDataset(with_absences, PLACING) if each["num_masks"] for text in each["expressions"]}
    assert {"tree"} < present <= {"the tree", "tree", "the leftmost tree", "leftmost tree"}
    plain = RisDataset(with_absences, replace(PLACING, rewording=False))
    assert {each["expressions"][0] for each in plain if not each["num_masks"]} == {"the red circle"}
