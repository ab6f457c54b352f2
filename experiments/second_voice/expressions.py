"""A second voice: what another simulated annotator says of an object, in other words and other sentences.

`simulated_expressions` speaks by the closed grammar. Who learns from that grammar and is asked in it has seen every
form of every question. This voice means the same references, and puts them into sentences of its own:

- about half of its expressions only use words that `first_voice_expressions` uses too, in other forms: "star small
  red", "of the two stars the left", "the star with the ring below";
- the others have words of their own, among them synonyms: "find me the tiny scarlet star", "the thing beneath the
  hoop", "star, red, furthest to the left". The tiny models never saw these words.

Each expression comes from a reference that the oracle confirms to mean this object alone. The category is left out only
where the oracle confirms the rest among all objects of the scene. Kinds are as frequent as in
`first_voice_expressions`, and the draw has a key of its own. The oracle's grammar cannot read most of these
texts, and no text says its kind: `simulated_expressions.kinds_of(scene, second_voice_expressions)`
says the kinds of a scene's texts.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace as replaced
from typing import Final

import numpy as np

from experiments.second_voice.forms import FAMILIAR_FORMS, NEW_FORMS, Slots, Wording, slots_of
from experiments.second_voice.words import ADJECTIVES, MAX_TOKENS, NOUNS, is_familiar, num_tokens
from pseudoris.synthworld.grammar import Description, Ordinal, Reference, parse_reference
from pseudoris.synthworld.oracle import fits, meant_among
from pseudoris.synthworld.scenes import Scene, SceneObject
from recipes.scene_texts import speech_generator, to_text
from recipes.simulated_expressions import (
    MAX_EXPRESSIONS,
    MAX_WORDS,
    MIN_EXPRESSIONS,
    Expression,
    Utterance,
    draw_utterance,
    num_words,
    utterances,
)

# In expressions with words of its own. A noun that a model does not know leaves it less to go by than an adjective.
_SYNONYM_SHARE, _NOUN_SYNONYM_SHARE = 0.4, 0.2
_FAMILIAR_SHARE: Final = 0.5
_FORMATTER: Final = string.Formatter()


@dataclass(frozen=True)
class Saying:
    """An expression's text, the form that it fills, and the utterance that it puts into words."""

    text: str
    form: str
    utterance: Utterance


def second_voice_expressions(scene: Scene, number: int) -> tuple[Expression, ...]:
    """Return two or three different expressions of an object, the same on every machine.

    Each has at most `MAX_WORDS` words and fits a text tower of 16 CLIP tokens. Fewer if there are no more; none if
    neither words nor position distinguish the object.
    """
    target = frozenset((number,))
    return tuple(Expression(each.text, each.utterance.kind, target) for each in sayings(scene, number))


def sayings(scene: Scene, number: int) -> tuple[Saying, ...]:
    """Return the expressions of an object with the references that they put into words."""
    rng = speech_generator(scene, number, voice="second")
    wanted = int(rng.integers(MIN_EXPRESSIONS, MAX_EXPRESSIONS + 1))
    pool = [each for each in utterances(scene, number) if num_words(each) <= MAX_WORDS]
    found: dict[str, Saying] = {}
    while pool and len(found) < wanted:
        drawn = draw_utterance(pool, rng)
        pool.remove(drawn)
        said = _said(drawn, scene, number, rng)
        if said is not None:
            found.setdefault(said.text, said)
    return tuple(found.values())


def things_fitting(noun: Description, scene: Scene) -> dict[int, SceneObject]:
    """Return the objects that a noun phrase fits if its category is not said, by their numbers."""
    return {
        number: item
        for number, item in enumerate(scene.objects)
        if fits(replaced(noun, category=item.attributes.category), item)
    }


def _said(utterance: Utterance, scene: Scene, number: int, rng: np.random.Generator) -> Saying | None:
    """The utterance in one of the forms that fit it; None if all are too long, or what the first voice says too."""
    first = bool(rng.random() < _FAMILIAR_SHARE)
    is_enough = _is_thing_enough(utterance.reference, scene, number)
    for wants_familiar in (first, not first):
        wording: Wording = _same if wants_familiar else _synonyms(rng)
        slots = slots_of(utterance.reference, wording, is_thing_enough=is_enough)
        forms = (FAMILIAR_FORMS if wants_familiar else NEW_FORMS)[utterance.form]
        for place in rng.permutation(len(forms)):
            text = _filled(forms[place], slots, rng)
            if text is not None and _is_sayable(text, wants_familiar=wants_familiar):
                return Saying(text, forms[place], utterance)
    return None


def _is_thing_enough(reference: Reference, scene: Scene, number: int) -> bool:
    """Whether the reference means the object even if its category is not said.

    Never with a third of the picture: all things of that kind would have to lie well inside or outside of it.
    """
    if reference.noun.position is not None or isinstance(reference, Ordinal):
        return False
    return meant_among(things_fitting(reference.noun, scene), reference, scene) == frozenset((number,))


def _same(word: str) -> str:
    return word


def _synonyms(rng: np.random.Generator) -> Wording:
    """A wording that says the same word for an attribute throughout an expression."""
    chosen: dict[str, str] = {}

    def wording(word: str) -> str:
        if word not in chosen:
            share = _NOUN_SYNONYM_SHARE if word in NOUNS else _SYNONYM_SHARE
            others = NOUNS.get(word, ADJECTIVES.get(word, ()))
            chosen[word] = _one_of(others, rng) if others and rng.random() < share else word
        return chosen[word]

    return wording


def _filled(form: str, slots: Slots, rng: np.random.Generator) -> str | None:
    """The form with one alternative in each slot; None if a slot has none."""
    names = [name for _, name, _, _ in _FORMATTER.parse(form) if name]
    if not all(name in slots for name in names):
        return None
    return form.format(**{name: _one_of(slots[name], rng) for name in names})


def _is_sayable(text: str, *, wants_familiar: bool) -> bool:
    """Whether a text is short enough, has the wanted words, and is none of the first voice."""
    if len(text.split()) > MAX_WORDS or num_tokens(text) > MAX_TOKENS or is_familiar(text) != wants_familiar:
        return False
    read = parse_reference(text)
    return read is None or text not in (to_text(read), to_text(read, article=""))


def _one_of(alternatives: Sequence[str], rng: np.random.Generator) -> str:
    return alternatives[int(rng.integers(len(alternatives)))]
