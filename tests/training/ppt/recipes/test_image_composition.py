"""Mosaics and fusions, and their texts: what they say is true of the masks that they give."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pseudoris.training.ppt.recipes.d_ref import Piece, fusion, mosaic, relative_side
from pseudoris.training.ppt.recipes.recipe_config import ComposeConfig, load_recipe_config
from pseudoris.training.ppt.recipes.recipe_texts import middle_text, name_in, names_a_side

SIDE = 48


def _piece(value: int, *, size: tuple[int, int] = (40, 30), name: str = "star") -> Piece:
    """An object of one colour in the middle of a black picture."""
    mask = np.zeros(size, np.bool_)
    mask[size[0] // 4 : -size[0] // 4, size[1] // 4 : -size[1] // 4] = True
    return Piece(np.repeat((mask * value).astype(np.uint8)[..., None], 3, 2), mask, name)


def _middle(mask: np.ndarray) -> tuple[float, float]:
    ys, xs = np.nonzero(mask)
    return float(xs.mean()), float(ys.mean())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(1, 2), (2, 1), (1, 3), (2, 2), (3, 3)]))
def test_each_object_of_a_mosaic_lies_in_its_cell_and_shows_its_own_pixels(seed, layout) -> None:
    values = [60 + 20 * at for at in range(layout[0] * layout[1])]

    found = mosaic([_piece(value) for value in values], layout, SIDE, np.random.default_rng(seed))

    assert found is not None
    assert found.kind == "position"
    for at, (value, mask) in enumerate(zip(values, found.masks, strict=True)):
        row, column = divmod(at, layout[1])
        x, y = _middle(mask)
        assert column * SIDE / layout[1] < x < (column + 1) * SIDE / layout[1]
        assert row * SIDE / layout[0] < y < (row + 1) * SIDE / layout[0]
        places = {"left": x < SIDE / 2, "right": x > SIDE / 2, "top": y < SIDE / 2, "bottom": y > SIDE / 2}
        for text in found.texts[at]:
            said = {*places, "middle"} & {*text.split()}
            assert said
            assert all(places.get(word, True) for word in said)
        assert abs(float(np.median(found.pixels[mask])) - value) <= 1
        # The whole object is there, of 20 x 16 pixels before it was scaled; scaling rounds each edge.
        height, width = (float(np.ptp(each) + 1) for each in np.nonzero(mask))
        assert abs(16 / 20 * height - width) < 3
    assert not np.stack(found.masks).sum(0).max() > 1
    every = [text for texts in found.texts for text in texts]
    assert len({*every}) == len(every)


@pytest.mark.parametrize("embedded", ["object", "image"])
def test_a_fusion_tells_the_relation_that_its_masks_have(embedded) -> None:
    assert load_recipe_config("paper").compose.embedded == "image"
    config = ComposeConfig(side_px=SIDE, embedded=embedded)
    base, other = _piece(100, size=(40, 40), name="cup"), _piece(200, name="star")
    # No pixel of the base's image is black.
    base.pixels[:] = 100
    told = set()
    for seed in range(12):
        found = fusion(base, other, config, np.random.default_rng(seed))
        assert found is not None
        of_base, of_other = found.masks
        (x, y), (x_base, y_base) = _middle(of_other), _middle(of_base)
        holds = {"left of": x < x_base, "right of": x > x_base, "above": y < y_base, "below": y > y_base}
        (relation,) = [name for name in holds if f"the star {name} the cup" in found.texts[1]]
        assert holds[relation]
        assert any(text.startswith("the cup") and text.endswith("the star") for text in found.texts[0])
        assert np.median(found.pixels[of_other]) > 130
        assert (found.pixels < 50).any() == (embedded == "image")
        assert not (of_base & of_other).any()
        told.add(relation)
    assert len(told) > 1


def test_a_fusion_that_would_hide_the_base_is_none() -> None:
    config = ComposeConfig(side_px=SIDE, embedded="image", embedded_side=(1.0, 1.0))

    assert fusion(_piece(100, name="cup"), _piece(200, size=(40, 40)), config, np.random.default_rng(0)) is None


def test_a_relation_is_told_only_where_it_is_clear() -> None:
    grid = np.zeros((2, 100, 100), np.bool_)
    grid[0, 45:55, 45:55] = True
    places = {(45, 20): "left", (45, 70): "right", (10, 45): "top", (80, 45): "bottom", (45, 50): None, (75, 75): None}
    for (y, x), expected in places.items():
        target = np.zeros_like(grid[0])
        target[y : y + 10, x : x + 10] = True
        assert relative_side(target, grid[0]) == expected


def test_the_class_name_comes_back_out_of_an_object_centric_text() -> None:
    assert middle_text("fire truck") == "the fire truck in the middle"
    assert name_in(middle_text("fire truck")) == "fire truck"
    assert name_in("the star on the left") is None


@pytest.mark.parametrize(
    "text",
    [
        *("the left star", "the rightmost cup", "left-hand side man", "the left-side cup", "upper-left cup"),
        *("top-right star", "bottom-left", "righthand guy", "lefty", "lft guy", "rt", "Right one", "guy on upper r"),
        *("the west wing", "the north-west tile", "northeast corner", "easternmost tent"),
        *("the plate at 3 o'clock", "cup at 9 oclock", "the next one clockwise"),
    ],
)
def test_a_text_that_names_a_side_would_be_untrue_of_a_mirrored_image(text) -> None:
    assert names_a_side(text)


@pytest.mark.parametrize(
    "text", ["a cup", "the bright star", "an upright vase", "the leftovers", "at least two", "clock"]
)
def test_a_text_that_sounds_like_a_side_and_names_none_may_be_mirrored(text) -> None:
    assert not names_a_side(text)
