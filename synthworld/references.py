"""What an expression can say beyond a caption: ends of a row, places in it, relations and groups; and how it says it.

    named    := noun phrase [position | relation anchor]              the cup on the left, the circle above the star
    extreme  := end adjective* category ["with" part]                 the leftmost red star, the upper circle
              | end "of the" number adjective* plural ["with" part]   the left of the two dotted circles
    ordinal  := "second" … category ["with" part] "from the" side     the second star from the left
    group    := ("all" | "both" | number | nothing) adjective* plural ["with" part] [position | relation anchor]
    anchor   := noun phrase, without a position

Every form may have an opening and an article before it, as captions have. `synthworld.reading` reads them,
`synthworld.oracle` says which objects they mean.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from synthworld.grammar import POSITIONS, Description, words_of
from synthworld.wording import PLURALS


@dataclass(frozen=True)
class Relation:
    """`phrase` is a key of `wording.RELATIONS`; the anchor has no position."""

    phrase: str
    anchor: Description


@dataclass(frozen=True)
class Named:
    """An object by its words and, at most one of both, its third of the picture or its relation to another object."""

    noun: Description
    relation: Relation | None = None


@dataclass(frozen=True)
class Extreme:
    """The end of a row, `word` of `wording.EXTREMES`; where a number is said, the row has that many."""

    noun: Description
    word: str
    number: str | None = None


@dataclass(frozen=True)
class Ordinal:
    """A place in a row: `word` of `wording.ORDINALS`, counted from `side` of `grammar.POSITIONS`."""

    noun: Description
    word: str
    side: str


@dataclass(frozen=True)
class Group:
    """Several objects; `word` is `all`, `both`, a number, or nothing ("the red circles")."""

    noun: Description
    word: str = ""
    relation: Relation | None = None


Reference = Named | Extreme | Ordinal | Group


def say(reference: Reference, *, article: str = "the") -> str:
    """Return the text of a reference, such as "the left of the two dotted circles"; `reading.read` reads it back."""
    return " ".join(word for word in (article, *_words(reference)) if word)


def _words(reference: Reference) -> tuple[str, ...]:
    """The words after the article."""
    if isinstance(reference, Extreme):
        if reference.number is None:
            return (reference.word, *words_of(reference.noun))
        return (reference.word, "of", "the", reference.number, *_plural(reference.noun))
    if isinstance(reference, Ordinal):
        return (reference.word, *words_of(reference.noun), "from", "the", reference.side)
    if isinstance(reference, Group):
        return (reference.word, *_plural(reference.noun), *_relation(reference.relation))
    return (*words_of(reference.noun), *_relation(reference.relation))


def _relation(relation: Relation | None) -> tuple[str, ...]:
    """The relation and its anchor, which is always definite."""
    return () if relation is None else (*relation.phrase.split(), "the", *words_of(relation.anchor))


def _plural(noun: Description) -> tuple[str, ...]:
    """The words of several such objects."""
    words = list(words_of(replace(noun, part=None, position=None)))
    words[-1] = PLURALS[noun.category]
    if noun.part is not None:
        words += ["with", "a", noun.part]
    if noun.position is not None:
        words += POSITIONS[noun.position].split()
    return tuple(words)
