"""Point grids and crops, held to segment_anything's own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from segment_anything.utils import amg
from segment_anything.utils.transforms import ResizeLongestSide

from schemas.errors import ConfigError
from workers.masks.grids import crop_boxes, layer_grids, point_grid, resized_size


@pytest.mark.parametrize("points_per_side", [1, 2, 7, 12, 32])
def test_the_point_grid_is_sams(points_per_side):
    np.testing.assert_array_equal(point_grid(points_per_side), amg.build_point_grid(points_per_side))


def test_layers_have_fewer_points_by_the_downscale_factor(masks_config):
    grids = layer_grids(masks_config(points_per_side=9, crop_n_layers=2, crop_n_points_downscale_factor=2))
    assert [len(grid) for grid in grids] == [81, 16, 4]


def test_a_layer_without_points_is_refused(masks_config):
    with pytest.raises(ConfigError, match="downscale_factor=4 leaves crop layer 2 without points"):
        layer_grids(masks_config(points_per_side=8, crop_n_layers=2, crop_n_points_downscale_factor=4))


@pytest.mark.parametrize("size", [(64, 64), (427, 640), (640, 427), (100, 1000)])
@pytest.mark.parametrize("layers", [0, 1, 2])
def test_crops_are_sams(masks_config, size, layers):
    config = masks_config(crop_n_layers=layers)
    boxes, numbers = amg.generate_crop_boxes(size, layers, config.crop_overlap_ratio)
    assert crop_boxes(size, config) == [(tuple(box), number) for box, number in zip(boxes, numbers, strict=True)]


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (2, 3)])
def test_every_crop_of_a_tiny_image_holds_pixels(masks_config, size):
    crops = crop_boxes(size, masks_config(crop_n_layers=2))
    assert crops[0] == ((0, 0, size[1], size[0]), 0)
    assert all(x1 > x0 and y1 > y0 for (x0, y0, x1, y1), _ in crops)


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_the_resized_size_is_sams_but_never_zero(height, width):
    expected = ResizeLongestSide.get_preprocess_shape(height, width, 256)
    assert resized_size((height, width), 256) == tuple(max(1, side) for side in expected)
