import pytest

from schemas.texts import clean_text


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("A Dog . ", "a dog"),
        ("a dog", "a dog"),
        ("  a   dog.. ", "a dog"),
        ("u.s. flag", "u.s. flag"),
        (" . ", ""),
        ("", ""),
    ],
)
def test_texts_are_lower_cased_stripped_and_lose_their_full_stop(text, cleaned):
    assert clean_text(text) == cleaned
