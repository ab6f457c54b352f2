"""Finds the head noun of an expression by rules, without a tagger; `spacy_nouns` finds it with a parser.

The rules, in the order in which they apply (method page, section 4):

1. The first noun phrase has the head. It ends before a preposition, a verb, a relative pronoun, a participle that
   follows a noun, or a comma. Openers are skipped ("there is", "this is"). If the sentence starts with a verb or a
   preposition, its object counts ("riding a horse" → horse).
2. Its last noun is the head ("a red fire truck" → truck, "the dog's tail" → tail), except for a few fixed compounds
   that name another thing ("hot dog").
3. Pictures, quantities and vague parts before `of` are skipped ("a photo of a pair of shoes" → shoes, "the top
   of a bus" → bus). Containers are objects: "a cup of coffee" → cup.
4. A place, colour or pronoun alone is not a head ("left", "the red", "he is running"): None.

A table of hand-checked expressions in the tests lists the known errors of the rules.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pseudoris.schemas.config import FilterConfig
from pseudoris.workers.filtering.noun_lexicon import (
    ARTICLES,
    AUXILIARIES,
    DEMONSTRATIVES,
    EMPTY_PRONOUNS,
    NUMERALS,
    PARTS,
    PERSONAL_PRONOUNS,
    PICTURES,
    PLACES,
    QUANTITIES,
    RELATIVES,
    SHOWING,
)
from pseudoris.workers.filtering.noun_phrases import Chunk, is_determiner, read_chunk, tokenise
from pseudoris.workers.filtering.spacy_nouns import SpacyNouns, first_child_head, head_of_parse

NounFinder = Callable[[str], str | None]


def noun_finder(config: FilterConfig) -> NounFinder:
    """Return the function that `filtering.nouns` names. It maps an expression to its head noun, or to None.

    Raises:
        ConfigError: spaCy or its language model is not installed.
    """
    if config.nouns == "rules":
        return head_noun
    return SpacyNouns(config, head_of_parse if config.nouns == "spacy" else first_child_head)


def noun_prompt(text: str, noun: str | None, *, has_article: Callable[[str], bool] = is_determiner) -> str:
    """Return the prompt for the masked crop: "a photo of a {noun}", without a second article.

    Args:
        text: The expression; used instead of the noun if `noun` is None.
        noun: The head noun, singular or plural as in the expression ("a photo of a dogs", like the authors' scripts).
        has_article: Whether the first word takes the place of the article.
    """
    named = noun if noun is not None else text
    first = named.split(maxsplit=1)[0] if named else ""
    return f"a photo of {named}" if has_article(first) else f"a photo of a {named}"


def prompt_builder(config: FilterConfig) -> Callable[[str, str | None], str]:
    """Return `noun_prompt` as `filtering.nouns` asks: the authors' rule knows "a", "an" and "the" alone.

    So under it "two dogs", where no noun is found, becomes "a photo of a two dogs".
    """
    if config.nouns == "spacy_first_child":
        return partial(noun_prompt, has_article=ARTICLES.__contains__)
    return noun_prompt


def head_noun(text: str) -> str | None:
    """Return the head of the first noun phrase of an English expression; None if the rules find none."""
    words = tokenise(text)
    skipped: str | None = None
    start = 0
    while start < len(words):
        chunk = read_chunk(words, start)
        head = chunk.head(words)
        if head is not None:
            next_start = _skip_to(words, chunk, head)
            if next_start is None:
                return head
            skipped, start = head, next_start
        elif _is_final(words, chunk):
            break
        else:
            start = chunk.end + 1
    return skipped


def _skip_to(words: list[str], chunk: Chunk, head: str) -> int | None:
    """Index of the phrase after a picture, quantity or part; None if `head` is an object itself."""
    following = words[chunk.end : chunk.end + 2]
    if head in PICTURES:
        for offset, word in enumerate(following):
            if word in SHOWING or word == "of":
                return chunk.end + offset + 1
            if word not in RELATIVES and word != "taken":
                return None
    if head in QUANTITIES | PARTS and following[:1] == ["of"]:
        return chunk.end + 1
    return None


def _is_final(words: list[str], chunk: Chunk) -> bool:
    """Whether a phrase without a noun ends the search. If not, the next phrase counts."""
    end_word = words[chunk.end] if chunk.end < len(words) else ""
    if not chunk.modifiers:
        return end_word in PERSONAL_PRONOUNS
    last = words[chunk.modifiers[-1]]
    if end_word == "of":  # "two of the dogs" and "top of the dog" are about dogs, "left of the dog" is a place
        return last in PLACES - PARTS
    if end_word in AUXILIARIES:  # "this is a dog"
        return last not in DEMONSTRATIVES
    # "on the left, a red bus": a place, then the phrase.
    opens = end_word in {",", ":", "-"} or end_word in EMPTY_PRONOUNS
    return not opens or all(words[i] in NUMERALS for i in chunk.modifiers)
