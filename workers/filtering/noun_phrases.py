"""Every noun phrase of an expression, by the rules that find its head noun, without a tagger."""

from __future__ import annotations

from workers.filtering import noun_lexicon as lexicon
from workers.filtering.noun_chunks import Chunk, read_chunk, tokenise

# Heads that name nothing by themselves, and those that name nothing where `of` follows.
_NO_THINGS = lexicon.PICTURES | lexicon.PLACES | lexicon.COLOURS | lexicon.NUMERALS
_OF_OTHERS = lexicon.QUANTITIES | lexicon.PARTS
_NOT_SEEN = lexicon.DETERMINERS | lexicon.PLACES | lexicon.NUMERALS


def noun_phrases(text: str) -> list[str]:
    """Return the noun phrases of an English expression in order, each once, as what a picture of the thing alone shows.

    A phrase keeps its adjectives and loses what only its surroundings tell: articles, numbers and places ("the second
    red car from the left" has the phrase "red car"). Pictures, quantities and places are no things ("a photo of", "the
    left of"). Where the rules find none, the list is empty.
    """
    words = tokenise(text)
    found: dict[str, None] = {}
    start = 0
    while start < len(words):
        chunk = read_chunk(words, start)
        head = chunk.head(words)
        if head is not None and not _is_no_thing(words, chunk, head):
            found[_phrase(words, chunk)] = None
        start = max(chunk.end, start) + 1
    return [phrase for phrase in found if phrase]


def _is_no_thing(words: list[str], chunk: Chunk, head: str) -> bool:
    """Whether the head is a picture, a place, a colour or a number, or a quantity or part of what follows it."""
    return head in _NO_THINGS or (head in _OF_OTHERS and words[chunk.end : chunk.end + 1] == ["of"])


def _phrase(words: list[str], chunk: Chunk) -> str:
    modifiers = (words[at] for at in chunk.modifiers)
    seen = [word for word in modifiers if word not in _NOT_SEEN and word[0].isalnum()]
    return " ".join([*seen, *(words[at] for at in chunk.nouns)])
