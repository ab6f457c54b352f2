import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.schemas.printable import visible
from pseudoris.viewer.gallery_page import image_card
from pseudoris.viewer.pages import embedded_json
from tests.viewer.builders import make_image, make_mask


@pytest.mark.parametrize("indices", [(7, 8), (7, 8, 9, 10, 11, 12), (100, 101)])
def test_numbers_of_masks_that_lie_on_each_other_do_not_cover_each_other(indices):
    card = image_card(make_image(masks=[make_mask(index) for index in indices], expressions=[]), picture=None)
    places = [(len(str(mask.index)), *mask.outline.label_xy) for mask in card["masks"]]
    for (digits, x, y), (others, other_x, other_y) in itertools.combinations(places, 2):
        # 17 px of a bold font: a digit is about 10 px wide.
        assert abs(x - other_x) >= 5 * (digits + others) or abs(y - other_y) >= 17
    assert all(0 <= x <= card["width"] and 0 <= y <= card["height"] for _, x, y in places)


def test_a_damaged_mask_has_no_outline_and_the_card_stands():
    card = image_card(make_image(masks=[make_mask(0, counts="zzz"), make_mask(1)], expressions=[]), picture=None)

    assert [shape.outline is None for shape in card["masks"]] == [True, False]
    assert [mask["damaged"] for mask in json.loads(card["record"])["masks"]] == [True, False]


@given(st.text())
def test_json_in_a_page_reads_back_and_ends_no_element(text):
    written = str(embedded_json({"text": text}))

    assert json.loads(written) == {"text": visible(text)}
    assert "<" not in written
