"""The rule on spaCy's own parses, annotated by hand: its language model is not among the test dependencies."""

import pytest

from pseudoris.workers.filtering.head_nouns import head_of_parse

spacy = pytest.importorskip("spacy", reason="the spacy extra is not installed: pip install 'spacy>=3.8,<4'")


def parsed(*tokens):
    """Build a Doc from (word, part of speech, index of its head, dependency)."""
    words, pos, heads, deps = zip(*tokens, strict=True)
    return spacy.tokens.Doc(spacy.blank("en").vocab, list(words), pos=list(pos), heads=list(heads), deps=list(deps))


def test_the_head_is_the_root_of_the_chunk_that_holds_the_sentences_root():
    doc = parsed(
        ("a", "DET", 1, "det"),
        ("man", "NOUN", 1, "ROOT"),
        ("riding", "VERB", 1, "acl"),
        ("a", "DET", 4, "det"),
        ("horse", "NOUN", 2, "dobj"),
    )

    assert head_of_parse(doc) == "man"


def test_under_a_verb_it_is_the_root_of_its_first_childs_chunk():
    doc = parsed(
        ("two", "NUM", 1, "nummod"),
        ("Dogs", "NOUN", 2, "nsubj"),
        ("run", "VERB", 2, "ROOT"),
        ("!", "PUNCT", 2, "punct"),
    )

    assert head_of_parse(doc) == "dogs"


def test_pictures_and_quantities_are_passed_over():
    doc = parsed(
        ("photo", "NOUN", 0, "ROOT"),
        ("of", "ADP", 0, "prep"),
        ("a", "DET", 3, "det"),
        ("pair", "NOUN", 1, "pobj"),
        ("of", "ADP", 3, "prep"),
        ("shoes", "NOUN", 4, "pobj"),
    )

    assert head_of_parse(doc) == "shoes"


def test_a_parse_without_a_noun_chunk_has_no_head():
    assert head_of_parse(parsed(("left", "ADJ", 0, "ROOT"))) is None


def test_an_empty_text_has_no_head():
    assert head_of_parse(spacy.blank("en")("")) is None
