import itertools

import numpy as np
from PIL import Image, ImageDraw

from pseudoris.synthworld.attributes import CATEGORIES, PARTS
from pseudoris.synthworld.shapes import PART_SHAPES, SHAPES


def stencil(shape, size=96):
    picture = Image.new("1", (size, size))
    draw = ImageDraw.Draw(picture)
    for filled, points in shape:
        draw.polygon([(size / 2 + x * size / 4, size / 2 + y * size / 4) for x, y in points], fill=int(filled))
    return np.asarray(picture, dtype=bool)


def test_every_category_and_part_has_a_shape():
    assert set(SHAPES) == set(CATEGORIES)
    assert set(PART_SHAPES) == set(PARTS)


def test_no_two_categories_look_alike():
    stencils = {name: stencil(shape) for name, shape in SHAPES.items()}
    for one, other in itertools.combinations(stencils, 2):
        a, b = stencils[one], stencils[other]
        assert (a & b).sum() / (a | b).sum() < 0.9, (one, other)


def test_every_part_sticks_out_of_every_category():
    for name, shape in SHAPES.items():
        for part, part_shape in PART_SHAPES.items():
            outside = stencil(part_shape) & ~stencil(shape)
            assert outside.sum() > 0.4 * stencil(part_shape).sum(), (name, part)
