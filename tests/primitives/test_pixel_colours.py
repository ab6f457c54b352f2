"""Which colour names the pixels of masks may be called by."""

import numpy as np
import pytest
import torch

from pseudoris.primitives import rle
from pseudoris.primitives.attribute_slots import pixel_names
from pseudoris.primitives.pixel_colours import NAMES, colour_shares

RED, WHITE, SHADED_WHITE, NAVY = (200, 30, 40), (250, 250, 250), (120, 122, 128), (20, 24, 70)


def painted(*colours):
    """Return a picture of one row a colour, a green one below them, and the masks of the rows."""
    pixels = np.zeros((len(colours) + 1, 10, 3), np.uint8)
    pixels[:] = (30, 160, 50)
    for row, colour in enumerate(colours):
        pixels[row] = colour
    masks = torch.zeros(len(colours), *pixels.shape[:2], dtype=torch.bool)
    for row in range(len(colours)):
        masks[row, row] = True
    return pixels, rle.encode(masks)


def allowed(shares):
    return {name for name, share in zip(NAMES, shares, strict=True) if share == 1.0}


@pytest.mark.parametrize(
    ("colour", "is_called", "is_not"),
    [
        (RED, {"red"}, {"green", "blue", "black", "white", "grey"}),
        (WHITE, {"white"}, {"black", "red", "blue"}),
        (SHADED_WHITE, {"grey"}, {"red", "yellow", "green"}),
        (NAVY, {"blue"}, {"red", "green", "yellow"}),
        ((250, 200, 30), {"yellow"}, {"blue", "green", "grey"}),
        ((110, 70, 40), {"brown"}, {"blue", "green", "white"}),
        ((240, 150, 190), {"pink"}, {"green", "yellow", "black"}),
        ((110, 50, 150), {"purple"}, {"green", "yellow", "brown"}),
    ],
)
def test_a_pixel_has_all_names_that_light_and_shade_allow_and_no_other(colour, is_called, is_not):
    (shares,) = colour_shares(*painted(colour))
    found = allowed(shares)
    assert is_called <= found
    assert not found & is_not


@pytest.mark.parametrize(
    ("word", "colour"),
    [
        *[("turquoise", (64, 224, 208)), ("aqua", (0, 255, 255)), ("teal", (0, 128, 128)), ("azure", (0, 127, 255))],
        *[("lavender", (230, 230, 250)), ("violet", (238, 130, 238)), ("navy", (0, 0, 128)), ("gold", (255, 215, 0))],
        *[("tan", (210, 180, 140)), ("khaki", (195, 176, 145)), ("maroon", (128, 0, 0)), ("silver", (192, 192, 192))],
    ],
)
def test_a_synonym_of_a_name_is_not_denied_by_its_own_colour(word, colour):
    (shares,) = colour_shares(*painted(colour))
    found = [
        {NAMES[number] for number in range(len(NAMES)) if shares[number]} & set(names) for names in pixel_names(word)
    ]
    assert found
    assert all(found)


def test_shares_are_of_each_masks_own_pixels():
    pixels, masks = painted(RED, NAVY)
    pixels[0, :5] = WHITE
    red, navy = colour_shares(pixels, masks)
    assert (red[NAMES.index("red")], red[NAMES.index("white")]) == (0.5, 0.5)
    assert navy[NAMES.index("red")] == 0.0


@pytest.mark.parametrize("tone", [(1.0, 1.0, 1.0), (1.0, 0.95, 0.88)])
def test_a_grey_or_sepia_picture_says_nothing(tone):
    levels = np.linspace(40, 250, 200).reshape(10, 20, 1)
    pixels = (levels * np.array(tone)).astype(np.uint8)
    masks = rle.encode(torch.ones(1, 10, 20, dtype=torch.bool))
    assert colour_shares(pixels, masks) == [()]
