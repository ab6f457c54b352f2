"""The second voice says what it means, and says it again."""

import hashlib

import pytest

from experiments.second_voice import words
from experiments.second_voice.expressions import Saying, sayings, second_voice_expressions
from pseudoris.primitives.clip_tokenizer import num_clip_tokens
from pseudoris.synthworld.attributes import Attributes
from pseudoris.synthworld.oracle import referents
from pseudoris.synthworld.scenes import Scene, SceneObject, Split, make_scene
from recipes.simulated_expressions import MAX_WORDS, kinds_of

GOLDEN = [
    "a purple key",
    "rightmost of the keys",
    "a small dotted cross",
    "at the left of the boat the cross",
    "on the left side of the striped key there is a cross",
]
# Of the texts of 40 scenes and their references, when a reader of its own had read each text back.
READ_BACK = "dfd0d59e644f2c984b6b7c3a9d424d6ead63d59ba5148bec6b74274d49004ea0"


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [make_scene(Split.DEVELOPMENT, position) for position in range(40)]


@pytest.fixture(scope="module")
def said(scenes: list[Scene]) -> list[tuple[Scene, int, Saying]]:
    return [(scene, n, each) for scene in scenes for n in range(len(scene.objects)) for each in sayings(scene, n)]


def test_every_text_is_one_that_was_read_back_as_its_reference(said: list[tuple[Scene, int, Saying]]) -> None:
    texts = [(scene.index, number, each.text, repr(each.utterance.reference)) for scene, number, each in said]
    assert hashlib.sha256(repr(texts).encode()).hexdigest() == READ_BACK


def test_the_oracle_never_reads_another_object_in_a_text(said: list[tuple[Scene, int, Saying]]) -> None:
    for scene, number, each in said:
        assert referents(each.text, scene) in (None, {number}), each


def test_texts_fit_a_text_tower_of_sixteen_tokens(said: list[tuple[Scene, int, Saying]]) -> None:
    texts = {each.text for _, _, each in said}
    assert max(len(text.split()) for text in texts) <= MAX_WORDS
    assert max(num_clip_tokens(text) for text in texts) <= 16
    assert all(words.num_tokens(text) == num_clip_tokens(text) - 2 for text in texts)


def test_every_second_text_has_only_words_of_the_first_voice_but_none_is_a_text_of_it(
    scenes: list[Scene], said: list[tuple[Scene, int, Saying]]
) -> None:
    assert sum(words.is_familiar(each.text) for _, _, each in said) / len(said) == pytest.approx(0.5, abs=0.05)
    for scene in scenes[:20]:
        assert not kinds_of(scene).keys() & {each.text for other, _, each in said if other is scene}


def test_the_voice_says_the_same_every_time_and_another_seed_says_other_things(scenes: list[Scene]) -> None:
    scene = scenes[0]
    other = Scene(7, scene.index, scene.objects)
    assert second_voice_expressions(scene, 0) == second_voice_expressions(scene, 0)
    assert any(
        second_voice_expressions(other, n) != second_voice_expressions(scene, n) for n in range(len(scene.objects))
    )
    assert [each.text for n in (0, 1) for each in second_voice_expressions(scene, n)] == GOLDEN


def test_twins_too_close_to_tell_apart_have_no_expression() -> None:
    red = Attributes("fish", "red", "plain", "small")
    twins = [SceneObject(red, (80.0 + x, 80.0 + x), 14.0, 0.0, (0, 0, 0)) for x in (0, 3)]
    assert second_voice_expressions(Scene(0, 5, tuple(twins)), 0) == ()
