"""Captions in other words than `scene_texts.noisy_caption` has them, for captioners that no weights were fitted to.

`caption_with_names` has three names for each category, and four wider ones. `caption_with_clauses` differs in kind: its
frames, its relative clauses and its scenery are others, and each of its words has errors of its own. `training_plan`
trains on them; `many_names` reads what each name is true of, so that both must stay as they were at the training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from evidence.recipes.scene_texts import indefinite_article, noisy_caption, noisy_description, words_of
from pseudoris.synthworld.attributes import Attributes
from pseudoris.synthworld.grammar import Description

# Says one caption of an object.
Say = Callable[[Attributes, np.random.Generator], str]

# The names of each category, the first of them its own.
NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    names[0]: names
    for names in (
        ("circle", "disk", "dot"),
        ("square", "block", "box"),
        ("triangle", "wedge", "cone"),
        ("star", "sparkle", "asterisk"),
        ("heart", "valentine", "love"),
        ("diamond", "gem", "rhombus"),
        ("cross", "crucifix", "saltire"),
        ("ring", "hoop", "band"),
        ("arrow", "pointer", "dart"),
        ("moon", "crescent", "luna"),
        ("flower", "blossom", "bloom"),
        ("drop", "teardrop", "droplet"),
        ("house", "home", "hut"),
        ("fish", "carp", "trout"),
        ("tree", "pine", "fir"),
        ("mushroom", "toadstool", "fungus"),
        ("bolt", "lightning", "flash"),
        ("crown", "tiara", "coronet"),
        ("key", "opener", "passkey"),
        ("boat", "ship", "vessel"),
    )
}
_NAME_SHARES: Final = (0.55, 0.27, 0.18)
# Wider names, and the categories that each is true of.
WIDER_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "shape": ("circle", "square", "triangle", "diamond", "cross", "ring"),
    "symbol": ("star", "heart", "arrow", "moon", "bolt", "drop"),
    "plant": ("flower", "tree", "mushroom"),
    "toy": ("house", "fish", "crown", "key", "boat"),
}
_WIDER_OF: Final = {category: name for name, categories in WIDER_NAMES.items() for category in categories}
_WIDER_SHARE: Final = 0.12


def caption_with_names(truth: Attributes, rng: np.random.Generator) -> str:
    """Return a noisy caption in which the category has one of its three names, or in 12 % a wider one."""
    words = noisy_caption(truth, rng).split()
    place = next(place for place, word in enumerate(words) if word in NAMES)
    if rng.random() < _WIDER_SHARE:
        name = _WIDER_OF[words[place]]
    else:
        name = NAMES[words[place]][int(rng.choice(len(_NAME_SHARES), p=_NAME_SHARES))]
    words[place] = name
    if words[place - 1] in ("a", "an"):
        words[place - 1] = indefinite_article(name)
    return " ".join(words)


FRAMES: Final[Mapping[str, float]] = {
    "": 0.35,
    "there is": 0.25,
    "a close up of": 0.2,
    "this is": 0.1,
    "we can see": 0.1,
}
SCENERY: Final = ("on a gray background", "in front of a wall", "on a table", "in the dark", "near the edge")
CLAUSE_WORDS: Final = ("that", "which", "is", "has", "and")
_SCENERY_SHARE: Final = 0.3
_CLAUSE_SHARE: Final = 0.35
# The trained prefixes have 16 tokens, start and end among them. No word of these captions has more than one.
_MOST_WORDS: Final = 14
# Decoding allows the end only after four words.
_LEAST_WORDS: Final = 4
# How often a word is said as which other one. What is not named has a uniform error of 1 %.
_CONFUSIONS: Final[Mapping[str, tuple[str, float]]] = {
    "circle": ("ring", 0.1),
    "ring": ("circle", 0.06),
    "square": ("diamond", 0.08),
    "diamond": ("square", 0.08),
    "star": ("flower", 0.08),
    "drop": ("heart", 0.08),
    "tree": ("mushroom", 0.05),
    "red": ("orange", 0.1),
    "orange": ("red", 0.05),
    "blue": ("purple", 0.1),
    "aqua": ("blue", 0.08),
    "dotted": ("checked", 0.08),
}
_OTHER_ERRORS: Final = 0.01


def caption_with_clauses(truth: Attributes, rng: np.random.Generator) -> str:
    """Return a caption such as "there is a circle that is small and red on a table"."""
    description = noisy_description(truth, rng, wrong=_confused)
    phrase = _with_clause(description, rng) if rng.random() < _CLAUSE_SHARE else None
    words = phrase or [indefinite_article(words_of(description)[0]), *words_of(description)]
    frame = list(FRAMES)[int(rng.choice(len(FRAMES), p=list(FRAMES.values())))].split()
    scenery = SCENERY[int(rng.integers(len(SCENERY)))].split() if rng.random() < _SCENERY_SHARE else []
    if len(frame) + len(words) + len(scenery) > _MOST_WORDS:
        frame, scenery = [], []
    if len(frame) + len(words) + len(scenery) < _LEAST_WORDS:
        frame = ["there", "is"]
    return " ".join([*frame, *words, *scenery])


def _with_clause(description: Description, rng: np.random.Generator) -> list[str] | None:
    """The noun phrase with its last adjectives, or its part, in a relative clause; None if it has neither."""
    adjectives = list(words_of(replace(description, part=None)))[:-1]
    pronoun = ("that", "which")[int(rng.integers(2))]
    own = [] if description.part is None else [f"has a {description.part}"]
    if not adjectives:
        return (
            f"{indefinite_article(description.category)} {description.category} {pronoun} {own[0]}".split()
            if own
            else None
        )
    first = int(rng.integers(len(adjectives)))
    before, moved = [*adjectives[:first], description.category], adjectives[first:]
    clause = " and ".join([*moved, *own]).split()
    return [indefinite_article(before[0]), *before, pronoun, "is", *clause]


def _confused(word: str, alternatives: Sequence[str], rng: np.random.Generator) -> str:
    other, share = _CONFUSIONS.get(word, ("", 0.0))
    chance = rng.random()
    if chance < share:
        return other
    return alternatives[int(rng.integers(len(alternatives)))] if chance < share + _OTHER_ERRORS else word


def words_beyond(say: Say) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the function words and the content words of a style that `noisy_caption` does not use."""
    if say is caption_with_names:
        return (), (*(name for names in NAMES.values() for name in names[1:]), *WIDER_NAMES)
    if say is caption_with_clauses:
        frames = (word for frame in (*FRAMES, *SCENERY) for word in frame.split())
        return tuple(dict.fromkeys((*frames, *CLAUSE_WORDS))), ()
    return (), ()
