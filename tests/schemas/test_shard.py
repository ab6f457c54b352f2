"""Names and copies of what travels between the stages."""

import pytest

from pseudoris.schemas.shard import clean_text, crop_context


def test_crop_names_do_not_depend_on_how_the_scale_is_written():
    assert [crop_context(scale) for scale in (1, 1.0, 1.20)] == ["context_1.0", "context_1.0", "context_1.2"]


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        *(("A Dog . ", "a dog"), ("  a   dog.. ", "a dog"), ("u.s. flag", "u.s. flag")),
        *(
            ("a\u200b dog", "a\u200b dog"),
            ("\u72d7", "\u72d7"),
            ("a\x00dog\x7f", "a dog"),
            ("7", "7"),
            ("\u2764", "\u2764"),
        ),
        *(
            (blank, "")
            for blank in (
                " . ",
                "",
                "\u200b",
                " \ufeff\u2060.",
                "\u0301\ufe0f",
                "\u3164 \u2800",
                "\x00\x1b",
                "!!!",
                "...",
                "?",
                "\u2014",
            )
        ),
    ],
)
def test_texts_are_lower_cased_stripped_and_lose_their_full_stop(text, cleaned):
    assert clean_text(text) == cleaned
