"""The head noun of an expression: by rules, without a tagger, or by spaCy.

The rules, in the order in which they act (method page, section 4):

1. The first noun phrase holds the head: words before a preposition, a verb, a relative pronoun, a participle that
   has a noun before it, or a comma. Openers are skipped ("there is", "this is"), and where the sentence starts with
   a verb or a preposition its object is taken ("riding a horse" → horse).
2. Its last noun is the head ("a red fire truck" → truck, "the dog's tail" → tail), but for a few fixed compounds
   that name another thing ("hot dog").
3. Pictures, quantities and vague parts before `of` are passed over ("a photo of a pair of shoes" → shoes, "the top
   of a bus" → bus). Containers are objects: "a cup of coffee" → cup.
4. Places, colours and pronouns alone are no head ("left", "the red", "he is running"): None.

The table of hand-checked expressions in the tests names what the rules are known to miss.
"""

from __future__ import annotations

from collections.abc import Callable

from schemas.config import FilterConfig
from workers.filtering.noun_chunks import Chunk, is_determiner, read_chunk, tokenise
from workers.filtering.noun_lexicon import (
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

NounFinder = Callable[[str], str | None]


def noun_finder(config: FilterConfig) -> NounFinder:
    """Return the function that `filtering.nouns` names: expression → head noun, or None where it finds none.

    Raises:
        ConfigError: spaCy or its language model is not installed.
    """
    if config.nouns == "rules":
        return head_noun
    from workers.filtering.spacy_nouns import SpacyNouns  # only where it is asked for: an extra

    return SpacyNouns()


def noun_prompt(text: str, noun: str | None) -> str:
    """Return what the masked crop is compared with: "a photo of a {noun}", without a second article.

    Args:
        text: The expression; it takes the noun's place where `noun` is None.
        noun: The head noun, in the number that the expression has ("a photo of a dogs", as the authors' scripts).
    """
    named = noun if noun is not None else text
    first = named.split(maxsplit=1)[0] if named else ""
    return f"a photo of {named}" if is_determiner(first) else f"a photo of a {named}"


def head_noun(text: str) -> str | None:
    """Return the head of the first noun phrase of an English expression; None where the rules find none."""
    words = tokenise(text)
    passed_over: str | None = None
    start = 0
    while start < len(words):
        chunk = read_chunk(words, start)
        head = chunk.head(words)
        if head is not None:
            passed = _pass_over(words, chunk, head)
            if passed is None:
                return head
            passed_over, start = head, passed
        elif _is_final(words, chunk):
            break
        else:
            start = chunk.end + 1
    return passed_over


def _pass_over(words: list[str], chunk: Chunk, head: str) -> int | None:
    """Where the phrase behind a picture, quantity or part starts; None where `head` is an object itself."""
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
    """Whether a phrase without a noun ends the search, instead of standing before the one that counts."""
    end_word = words[chunk.end] if chunk.end < len(words) else ""
    if not chunk.modifiers:
        return end_word in PERSONAL_PRONOUNS
    last = words[chunk.modifiers[-1]]
    if end_word == "of":  # "two of the dogs" and "top of the dog" speak of dogs, "left of the dog" of a place
        return last in PLACES - PARTS
    if end_word in AUXILIARIES:  # "this is a dog"
        return last not in DEMONSTRATIVES
    # "on the left, a red bus": the place stands apart, the phrase comes next.
    opens = end_word in {",", ":", "-"} or end_word in EMPTY_PRONOUNS
    return not opens or all(words[i] in NUMERALS for i in chunk.modifiers)
