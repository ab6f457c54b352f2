import hashlib

import numpy as np
import pytest

from pseudoris.synthworld.attributes import Attributes
from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scenes import Scene, SceneObject, Split, make_scene

GOLDEN = [
    (Split.TRAIN, 0, "b8671adfc89347c1"),
    (Split.TEST, 3, "897911659e51e32c"),
    (Split.DEMO, 11, "1d0796a85e3431e0"),
]


def one_object(**changes):
    words = {"category": "circle", "colour": "red", "pattern": "plain", "size": "large", "part": None, **changes}
    item = SceneObject(Attributes(**words), (96.0, 96.0), 28.0, 0.0, (0, 0, 0))
    return Scene(0, 0, (item,))


@pytest.mark.parametrize(("split", "position", "digest"), GOLDEN)
def test_pixels_and_masks_are_the_published_ones(split, position, digest):
    rendered = render(make_scene(split, position))
    assert hashlib.sha256(rendered.image.tobytes() + rendered.masks.tobytes()).hexdigest()[:16] == digest


def test_masks_are_disjoint_and_visible():
    for position in range(10):
        scene = make_scene(Split.TEST, position)
        masks = render(scene).masks
        assert masks.shape == (len(scene.objects), 192, 192)
        assert masks.sum(axis=0).max() == 1
        assert masks.any(axis=(1, 2)).all()


def test_a_circle_covers_its_area():
    mask = render(one_object()).masks[0]
    assert mask.sum() == pytest.approx(np.pi * (0.92 * 28) ** 2, rel=0.02)


def test_the_colour_inside_the_mask_is_the_named_one():
    rendered = render(one_object(colour="blue"))
    assert np.abs(rendered.image[rendered.masks[0]].mean(axis=0) - (45, 80, 215)).max() < 8


@pytest.mark.parametrize("pattern", ["striped", "dotted", "checked"])
def test_a_pattern_changes_pixels_and_not_the_mask(pattern):
    plain, patterned = render(one_object()), render(one_object(pattern=pattern))
    assert (plain.masks == patterned.masks).all()
    inside = plain.masks[0]
    share = (np.abs(plain.image.astype(int) - patterned.image)[inside].max(axis=-1) > 60).mean()
    assert 0.15 < share < 0.65


@pytest.mark.parametrize("part", ["hat", "tail", "handle"])
def test_a_part_belongs_to_its_object(part):
    assert render(one_object(part=part)).masks[0].sum() > render(one_object()).masks[0].sum() + 100


def test_a_later_object_hides_an_earlier_one():
    below = SceneObject(Attributes("square", "red", "plain", "large"), (90.0, 96.0), 28.0, 0.0, (0, 0, 0))
    above = SceneObject(Attributes("circle", "blue", "plain", "large"), (110.0, 96.0), 28.0, 0.0, (0, 0, 0))
    alone = render(Scene(0, 0, (below,))).masks[0]
    both = render(Scene(0, 0, (below, above))).masks
    assert both[0].sum() < alone.sum()
    assert (both[0] <= alone).all()
