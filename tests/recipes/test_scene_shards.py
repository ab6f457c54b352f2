import numpy as np

from pseudoris.images.pixels import decode_upright
from pseudoris.schemas.config import ImagesConfig
from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.workers.masks import rle
from recipes.scene_shards import scene_image, scene_shard


def test_a_scene_survives_its_encoding():
    scene = make_scene(Split.TEST, 1)
    assert (decode_upright(scene_image(scene).data, ImagesConfig()) == render(scene).image).all()


def test_true_masks_stand_in_the_scenes_order():
    image = scene_image(make_scene(Split.TEST, 1))
    row = scene_shard([image], with_true_masks=True).images[0]
    decoded = rle.decode([mask.rle_counts for mask in row.masks], (192, 192))
    assert (decoded == image.masks).all()
    assert [mask.area_px for mask in row.masks] == image.masks.sum(axis=(1, 2)).tolist()
    ys, xs = np.nonzero(image.masks[0])
    assert row.masks[0].box_xyxy_px == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
