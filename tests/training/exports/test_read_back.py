"""What a mask must hold when it is read back."""

from __future__ import annotations

import pytest

from pseudoris.schemas.errors import TransientError
from pseudoris.training.exports.output_files import RisingIds, check_mask, check_texts
from tests.store.builders import HEIGHT, WIDTH, make_mask

MASK = make_mask("0123456789abcdef")
SOUND = {
    "segmentation": {"size": [HEIGHT, WIDTH], "counts": MASK.rle_counts},
    "bbox": [3, 2, 6, 5],
    "area": 29,
}


def test_a_sound_mask_gives_its_encoding():
    assert check_mask(SOUND, (HEIGHT, WIDTH), "mask 1") == MASK.rle_counts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segmentation": [SOUND["segmentation"]]}, "not a compressed run-length encoding"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [3, 4]}}, "not a compressed run-length encoding"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": "a1"}}, "does not decode"),
        (
            {"segmentation": {"size": [WIDTH, HEIGHT], "counts": MASK.rle_counts}},
            r"its mask has the size \[20, 12\], its image \[12",
        ),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": "`7"}}, "no pixel"),
        ({"bbox": [3, 2, 9, 7]}, "its box or area"),
        ({"area": 30}, "its box or area"),
    ],
)
def test_what_is_wrong_with_a_mask_is_said(change, message):
    with pytest.raises(TransientError, match=f"^mask 1 reads back differently: .*{message}"):
        check_mask({**SOUND, **change}, (HEIGHT, WIDTH), "mask 1")


def test_ids_rise():
    ids = RisingIds("file")
    assert [ids.check(number) for number in (1, 2, 7)] == [1, 2, 7]
    for number in (7, 3, "8", 8.0, True, None):
        with pytest.raises(TransientError, match="ids must be rising whole numbers"):
            ids.check(number)


@pytest.mark.parametrize("texts", [[""], ["a", " \t"], ["\u200b"], [None], [3]])
def test_an_empty_text_is_none(texts):
    with pytest.raises(TransientError, match="an expression is empty or not a text"):
        check_texts(texts, "mask 1")
