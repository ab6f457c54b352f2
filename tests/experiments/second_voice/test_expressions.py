"""The second voice, read back by a reader of its own that is written from the word tables, not from the forms."""

import re
import string
from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from itertools import product
from typing import Any

import pytest

from experiments.second_voice import words
from experiments.second_voice.expressions import (
    FAMILIAR_FORMS,
    NEW_FORMS,
    Saying,
    sayings,
    second_voice_expressions,
    slots_of,
    things_fitting,
)
from pseudoris.synthworld.attributes import (
    CATEGORIES,
    COLOURS,
    EXTREMES,
    NUMBERS,
    ORDINALS,
    PARTS,
    PATTERNS,
    RELATIONS,
    SIZES,
    Attributes,
)
from pseudoris.synthworld.grammar import Description, Extreme, Ordinal, Reference
from pseudoris.synthworld.oracle import meant_among, referents
from pseudoris.synthworld.scenes import Scene, SceneObject, Split, make_scene
from pseudoris.workers.checkpoints.openclip import num_clip_tokens
from recipes.simulated_expressions import MAX_WORDS, Utterance, kinds_of, utterances

# Words of forms that state nothing of the object.
FILLERS = {
    *("the", "a", "an", "of", "with", "that", "is", "has", "which", "and", "in", "out", "one", "thing", "object"),
    *("shape", "there", "are", "from", "counting", "number", "can", "you", "see", "find", "me", "i", "mean", "look"),
    *("for", "point", "at", "show", "where"),
}
SLOTS = {"category": CATEGORIES, "colour": COLOURS, "pattern": PATTERNS, "size": SIZES, "part": PARTS}
GOLDEN = [
    "a purple key",
    "rightmost of the keys",
    "a small dotted cross",
    "at the left of the boat the cross",
    "on the left side of the striped key there is a cross",
]
# What is read of a text: how the object is placed; its own words; the words of the anchor.
Read = tuple[tuple[Any, ...], dict[str, str], dict[str, str] | None]


def by_phrase(*tables: words.Phrases) -> dict[str, str]:
    """Return the side that each phrase of some tables means, longest phrases first."""
    pairs = [(phrase, side) for table in tables for side, phrases in table.items() for phrase in phrases]
    return dict(sorted(pairs, key=lambda pair: -len(pair[0])))


RELATED = by_phrase(words.PLAIN_RELATIONS, words.NEW_RELATIONS)
CONVERSES = by_phrase(words.PLAIN_CONVERSES, words.NEW_CONVERSES)
PLACES = by_phrase(words.SPOTS, words.SHORT_SPOTS, words.ZONES)
ENDS = by_phrase(words.ENDS, words.FAR, words.HIGHER, EXTREMES)


def any_of(phrases: Iterable[str]) -> str:
    return f"\\b(?:{'|'.join(phrases)})\\b"


def meanings() -> dict[str, tuple[str, str]]:
    """Return the slot and the word of `attributes` that each word of the voice stands for, longest first."""
    found = {word: (slot, word) for slot, table in SLOTS.items() for word in table}
    for word, others in (*words.NOUNS.items(), *words.ADJECTIVES.items()):
        found |= {other: found[word] for other in others}
    nouns = [word for word, (slot, _) in found.items() if slot == "category"]
    found |= {words.plural(noun): found[noun] for noun in nouns}
    return dict(sorted(found.items(), key=lambda pair: -len(pair[0])))


MEANINGS = meanings()
TOKENS = re.compile(f"{any_of(MEANINGS)}|[a-z]+")


def attributes_in(text: str) -> dict[str, str]:
    """Return the attributes that a text states, by slot; each word must be an attribute, a synonym, or a filler."""
    found: dict[str, str] = {}
    for token in TOKENS.findall(text):
        if token in MEANINGS:
            slot, word = MEANINGS[token]
            assert slot not in found, f"{text!r} states its {slot} twice"
            found[slot] = word
        else:
            assert token in FILLERS, f"{token!r} in {text!r} means nothing"
    return found


def read(text: str) -> Read:
    """Return what a text means."""
    text = text.replace(",", "")
    ranks = {**{word: n for n, word in enumerate(ORDINALS, 1)}, **{f"number {word}": n for word, n in NUMBERS.items()}}
    if found := re.search(any_of(ranks), text):
        side = re.search(r"from (?:the )?(left|right|top|bottom)", text)
        if side is not None:
            return (
                ("rank", ranks[found[0]], side[1]),
                attributes_in(text.replace(found[0], "").replace(side[0], "")),
                None,
            )
    if found := re.fullmatch(f"(.+) (?:with|that has) the (.+) ({any_of(CONVERSES)})", text):
        return ("relation", CONVERSES[found[3]]), attributes_in(found[1]), attributes_in(found[2])
    if found := re.fullmatch(f"(.*?)({any_of(RELATED)}) the (.+?)(?: (?:the|there is) (.+))?", text):
        return ("relation", RELATED[found[2]]), attributes_in(f"{found[1]} {found[4] or ''}"), attributes_in(found[3])
    for name, table in (("end", by_phrase(words.FAR)), ("third", PLACES), ("end", ENDS)):
        if found := re.search(any_of(table), text):
            number = re.search(any_of(NUMBERS), text)
            rest = text.replace(found[0], "").replace(number[0] if number else "", "")
            placed = (name, table[found[0]]) if name == "third" else (name, table[found[0]], number and number[0])
            return placed, attributes_in(rest), None
    return (), attributes_in(text), None


def stated(noun: Description) -> dict[str, str]:
    return {slot: word for slot in SLOTS if (word := getattr(noun, slot)) is not None}


def expected(reference: Reference) -> Read:
    """Return what a text of a reference must mean."""
    anchor = None
    if isinstance(reference, Extreme):
        side = next(side for side, ends in EXTREMES.items() if reference.word in ends)
        placed: tuple[Any, ...] = ("end", side, reference.number)
    elif isinstance(reference, Ordinal):
        placed = ("rank", ORDINALS.index(reference.word) + 1, reference.side)
    elif reference.relation is not None:
        placed, anchor = ("relation", RELATIONS[reference.relation.phrase]), stated(reference.relation.anchor)
    else:
        placed = () if reference.noun.position is None else ("third", reference.noun.position)
    return placed, stated(reference.noun), anchor


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [make_scene(Split.DEVELOPMENT, position) for position in range(40)]


@pytest.fixture(scope="module")
def pool(scenes: list[Scene]) -> dict[str, list[Utterance]]:
    """Some utterances of each form."""
    found: dict[str, list[Utterance]] = defaultdict(list)
    for scene in scenes[:12]:
        for each in (each for number in range(len(scene.objects)) for each in utterances(scene, number)):
            found[each.form].append(each)
    return {form: every[:: max(1, len(every) // 12)] for form, every in found.items()}


def synonym(place: int, word: str) -> str:
    """Return the word itself or one of its synonyms, by turns."""
    others = (word, *words.NOUNS.get(word, ()), *words.ADJECTIVES.get(word, ()))
    return others[place % len(others)]


@pytest.fixture(scope="module")
def first_voice(scenes: list[Scene]) -> list[dict[str, str]]:
    """Return what the first voice says about each of the first scenes, with its kind."""
    return [kinds_of(scene) for scene in scenes[:20]]


@pytest.fixture(scope="module")
def said(scenes: list[Scene]) -> list[tuple[Scene, int, Saying]]:
    return [(scene, n, each) for scene in scenes for n in range(len(scene.objects)) for each in sayings(scene, n)]


def test_every_text_read_back_states_its_reference_and_nothing_else(said: list[tuple[Scene, int, Saying]]) -> None:
    num_things = 0
    for scene, number, each in said:
        reference = each.utterance.reference
        placed, own, anchor = read(each.text)
        if "category" not in own:
            num_things += 1
            row = things_fitting(reference.noun, scene)
            assert meant_among(row, reference, scene) == {number}, each
            own["category"] = reference.noun.category
        assert (placed, own, anchor) == expected(reference), each
    assert 0.02 * len(said) < num_things < 0.15 * len(said)


@pytest.mark.parametrize(
    "form", [form for forms in (FAMILIAR_FORMS, NEW_FORMS) for each in forms.values() for form in each]
)
def test_each_form_read_back_with_each_alternative_states_its_reference(
    form: str, pool: dict[str, list[Utterance]]
) -> None:
    (kind,) = (name for forms in (FAMILIAR_FORMS, NEW_FORMS) for name, each in forms.items() if form in each)
    num_read = 0
    for utterance, place in product(pool[kind], range(6)):
        slots = slots_of(utterance.reference, partial(synonym, place), is_thing_enough=True)
        if all(name in slots for _, name, _, _ in string.Formatter().parse(form) if name):
            text = form.format(**{name: every[place % len(every)] for name, every in slots.items()})
            placed, own, anchor = read(text)
            assert (placed, {"category": utterance.reference.noun.category, **own}, anchor) == expected(
                utterance.reference
            )
            num_read += 1
    assert num_read


def test_the_oracle_never_reads_another_object_in_a_text(said: list[tuple[Scene, int, Saying]]) -> None:
    for scene, number, each in said:
        assert referents(each.text, scene) in (None, {number}), each


def test_texts_fit_a_text_tower_of_sixteen_tokens(said: list[tuple[Scene, int, Saying]]) -> None:
    texts = {each.text for _, _, each in said}
    assert max(len(text.split()) for text in texts) <= MAX_WORDS
    assert max(num_clip_tokens(text) for text in texts) <= 16
    assert all(words.num_tokens(text) == num_clip_tokens(text) - 2 for text in texts)


def test_every_second_text_has_only_words_of_the_first_voice_but_none_is_a_text_of_it(
    scenes: list[Scene], said: list[tuple[Scene, int, Saying]], first_voice: list[dict[str, str]]
) -> None:
    assert sum(words.is_familiar(each.text) for _, _, each in said) / len(said) == pytest.approx(0.5, abs=0.05)
    for scene, texts in zip(scenes, first_voice, strict=False):
        assert not texts.keys() & {each.text for other, _, each in said if other is scene}


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
