import hashlib

import pytest

from pseudoris.synthworld.attributes import Attributes
from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scenes import Scene, SceneObject, Split, make_scene

GOLDEN = [
    (Split.TRAIN, 0, "b8671adfc89347c1"),
    (Split.TEST, 3, "897911659e51e32c"),
    (Split.DEMO, 11, "1d0796a85e3431e0"),
]


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


def test_a_later_object_hides_an_earlier_one():
    below = SceneObject(Attributes("square", "red", "plain", "large"), (90.0, 96.0), 28.0, 0.0, (0, 0, 0))
    above = SceneObject(Attributes("circle", "blue", "plain", "large"), (110.0, 96.0), 28.0, 0.0, (0, 0, 0))
    alone = render(Scene(0, 0, (below,))).masks[0]
    both = render(Scene(0, 0, (below, above))).masks
    assert both[0].sum() < alone.sum()
    assert (both[0] <= alone).all()
