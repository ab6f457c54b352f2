"""Equal crops are found, and crop_sets are packed below the budget."""

import torch

from pseudoris.workers.captions.unique_crops import CropSet, crop_batches, encode_images, find_unique_crops
from tests.builders.coca import image_crops, small_coca


def test_crops_of_equal_sums_are_not_taken_for_equal():
    crops = torch.zeros(3, 3, 8, 8)
    crops[0, 0, 0, 0] = crops[1, 0, 0, 1] = crops[2, 0, 0, 0] = 1
    new, unique_crop_of = find_unique_crops(crops)
    assert new.tolist() == [0, 1]
    assert unique_crop_of.tolist() == [0, 1, 0]


def test_a_pass_holds_as_many_units_as_the_budget_and_one_at_least():
    encoded = encode_images(small_coca(), [image_crops(num_masks=n, num_kinds=2) for n in (2, 5, 1)])
    found = list(crop_batches(encoded, bytes_a_crop=10, budget_bytes=40))
    assert found == [[CropSet(0, 0), CropSet(0, 1)], [CropSet(1, 0)], [CropSet(1, 1)], [CropSet(2, 0), CropSet(2, 1)]]
