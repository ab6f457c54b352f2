"""Scenes whose objects touch: what is drawn, and what the masks say of it."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from experiments.quality.scene_runs import SceneRun
from experiments.touching_scenes import TOUCHING, make_scene, render
from pseudoris.schemas.errors import ConfigError
from pseudoris.synthworld import renderer
from pseudoris.synthworld.scenes import Split
from pseudoris.synthworld.scenes import make_scene as synthworld_scene

POSITIONS = range(8_000, 8_006)


def scene_at(position):
    return make_scene(Split.DEVELOPMENT, position, world=TOUCHING)


def grown(mask):
    """A mask with the pixels around it."""
    return np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(3))) > 0


def lone(scene, number):
    """The mask of one object as synthworld draws it, with nothing before it and no hole."""
    item = scene.objects[number]
    return renderer.render(replace(scene, objects=(item,), world="default")).masks[0]


@pytest.mark.parametrize("position", POSITIONS)
def test_every_object_touches_another_and_none_hides_much_of_it(position) -> None:
    scene = scene_at(position)
    alone = [lone(scene, number) for number in range(len(scene.objects))]
    for number, own in enumerate(alone):
        others = [each for at, each in enumerate(alone) if at != number]
        assert (grown(own) & np.any(others, axis=0)).any()
    visible = render(scene).masks
    assert all(mask.sum() > 0.5 * own.sum() for mask, own in zip(visible, alone, strict=True))


def test_a_mask_is_what_its_object_alone_adds_to_the_picture() -> None:
    scene = scene_at(8_003)
    # The last object is painted over all others: without it the picture differs in its visible pixels alone.
    with_it, without = render(scene), render(replace(scene, objects=scene.objects[:-1]))
    changed = (with_it.image != without.image).any(axis=2)
    # Noise may draw the colour that was there before.
    assert not (changed & ~with_it.masks[-1]).any()
    assert changed[with_it.masks[-1]].mean() > 0.99
    assert not (with_it.masks.sum(axis=0) > 1).any()


def test_a_hole_shows_what_lies_behind_and_is_in_no_mask() -> None:
    areas = []
    for scene in map(scene_at, POSITIONS):
        # Alone: nothing else takes pixels off its mask.
        item = max(scene.objects, key=lambda each: each.radius_px)
        scene = replace(scene, objects=(item,))
        drawn, whole = render(scene), lone(scene, 0)
        hole = whole & ~drawn.masks[0]
        assert np.array_equal(drawn.image[hole], render(replace(scene, objects=())).image[hole])
        # A rim of the body stays around it.
        assert whole[grown(hole)].all()
        areas.append(hole.sum() / (np.pi * (0.22 * item.radius_px) ** 2))
    # One of these bodies is too narrow for a hole.
    assert sorted(areas) == [0, *[pytest.approx(1, rel=0.2)] * 5]


def test_the_same_scene_has_the_same_bytes_and_another_one_others() -> None:
    one, again, other = (render(scene_at(position)) for position in (8_001, 8_001, 8_002))
    assert one.image.tobytes() == again.image.tobytes()
    assert one.masks.tobytes() == again.masks.tobytes()
    assert one.image.tobytes() != other.image.tobytes()


def test_runs_of_scenes_have_this_world_and_synthworlds_and_no_other() -> None:
    assert SceneRun(Split.DEVELOPMENT, 2, 8_000, TOUCHING).all() == [scene_at(8_000), scene_at(8_001)]
    crowded = synthworld_scene(Split.TEST, 3, world="crowded")
    assert SceneRun(Split.TEST, 1, 3, "crowded").all() == [crowded]
    assert render(crowded).image.tobytes() == renderer.render(crowded).image.tobytes()
    with pytest.raises(ConfigError, match="no world 'third'"):
        make_scene(Split.TEST, 0, world="third")
