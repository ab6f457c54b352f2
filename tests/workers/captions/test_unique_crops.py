"""Equal crops are found, and crop_sets are packed below the budget."""

import numpy as np
import pytest
import torch

from pseudoris.workers.captions.cached_towers import encode_crops
from pseudoris.workers.captions.unique_crops import CropSet, crop_batches, encode_images, find_unique_crops, gather
from tests.builders.coca import image_crops, small_coca


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_crops_share_the_first_ones_place(dtype):
    crops = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    crops[3], crops[5] = crops[1], crops[1]
    new, unique_crop_of = find_unique_crops(crops)
    assert new.tolist() == [0, 1, 2, 4]
    assert unique_crop_of.tolist() == [0, 1, 2, 1, 3, 1]


def test_crops_of_equal_sums_are_not_taken_for_equal():
    crops = torch.zeros(3, 3, 8, 8)
    crops[0, 0, 0, 0] = crops[1, 0, 0, 1] = crops[2, 0, 0, 0] = 1
    new, unique_crop_of = find_unique_crops(crops)
    assert new.tolist() == [0, 1]
    assert unique_crop_of.tolist() == [0, 1, 0]


def test_each_picture_is_encoded_once_and_stands_where_its_crops_were():
    model = small_coca()
    images = [image_crops(num_masks=3, num_kinds=2, seed=n) for n in range(2)]
    images[1].pixels[1, 2] = images[1].pixels[0, 0]
    encoded = encode_images(model, images)
    assert [len(image.crops.tokens) for image in encoded] == [6, 5]
    for image, given in zip(encoded, images, strict=True):
        for kind in range(2):
            expected = encode_crops(model, given.pixels[kind]).embeddings
            torch.testing.assert_close(image.embeddings(kind), expected)


def test_a_pass_holds_as_many_units_as_the_budget_and_one_at_least():
    encoded = encode_images(small_coca(), [image_crops(num_masks=n, num_kinds=2) for n in (2, 5, 1)])
    found = list(crop_batches(encoded, bytes_a_crop=10, budget_bytes=40))
    assert found == [[CropSet(0, 0), CropSet(0, 1)], [CropSet(1, 0)], [CropSet(1, 1)], [CropSet(2, 0), CropSet(2, 1)]]


def test_gathered_pictures_are_those_of_the_units_alone():
    images = [image_crops(num_masks=3, num_kinds=2, seed=n) for n in range(2)]
    images[0].pixels[1, 2] = images[0].pixels[1, 0]
    encoded = encode_images(small_coca(), images)
    unique_crop_of, tokens = gather(encoded, [CropSet(0, 1), CropSet(1, 0), CropSet(1, 1)])
    assert len(tokens) == 2 + 6
    assert unique_crop_of.tolist() == [0, 1, 0, *range(2, 8)]
    for crop, (image, kind, place) in enumerate(
        [(0, 1, 0), (0, 1, 1), (0, 1, 2), *((1, k, p) for k in range(2) for p in range(3))]
    ):
        wanted = encoded[image].crops.tokens[encoded[image].unique_crop_of[kind, place]]
        assert torch.equal(tokens[unique_crop_of[crop]], wanted)
    assert np.array_equal(np.unique(unique_crop_of), np.arange(len(tokens)))
