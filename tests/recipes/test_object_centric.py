"""Object-centric images: one object in the middle, in the folder of its category, with its truth beside it."""

import json

import numpy as np
from PIL import Image

from pseudoris.synthworld.attributes import CATEGORIES, is_held_out
from pseudoris.synthworld.renderer import render
from recipes.object_centric import object_centric_scene, read_true_masks, write_object_centric


def test_one_object_stands_whole_about_the_middle() -> None:
    for position in range(40):
        scene = object_centric_scene(position)
        (item,) = scene.objects
        ys, xs = np.nonzero(render(scene).masks[0])
        assert item.attributes.category == CATEGORIES[position % len(CATEGORIES)]
        assert not is_held_out(item.attributes.category, item.attributes.colour)
        assert abs(xs.mean() - 96) < 40
        assert abs(ys.mean() - 96) < 40
        assert min(xs.min(), ys.min()) > 0
        assert max(xs.max(), ys.max()) < 191


def test_files_lie_by_category_and_the_truth_fits_them(tmp_path) -> None:
    images = write_object_centric(tmp_path, num_images=21)
    truth = json.loads((tmp_path / "truth.json").read_text())
    masks = read_true_masks(tmp_path)

    assert {path.relative_to(images).as_posix() for path in images.rglob("*.png")} == set(truth) == set(masks)
    assert sum(name.startswith("circle/") for name in truth) == 2
    for name, mask in masks.items():
        assert np.asarray(Image.open(images / name)).shape[:2] == mask.shape
        assert truth[name]["object"]["attributes"]["category"] == name.partition("/")[0]
        assert 0.02 < mask.mean() < 0.4
