"""Names and copies of what travels between the stages."""

import pytest

from pseudoris.schemas.shard import Failure, ShardImage, clean_text, crop_context


def test_crop_names_do_not_depend_on_how_the_scale_is_written():
    assert [crop_context(scale) for scale in (1, 1.0, 1.20)] == ["context_1.0", "context_1.0", "context_1.2"]


def test_a_quarantined_image_keeps_its_name_and_nothing_of_its_content():
    image = ShardImage(3, "00ab", "a.jpg", b"bytes", height=4, width=5)
    lost = image.quarantined(Failure("read", "corrupt", "torn"))
    assert (lost.position, lost.image_id, lost.key) == (3, "00ab", "a.jpg")
    assert (lost.data, lost.masks, lost.expressions) == (b"", (), ())
    assert lost.failure == Failure("read", "corrupt", "torn")


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
