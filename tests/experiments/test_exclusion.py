"""The measurement of the perceptual hash: what it counts, and that docs/exclusions.md has its tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from experiments.exclusion import COPIES, DISTANCES, RECORD, measure, tables
from pseudoris.images.perceptual_hash import DEFAULT_MAX_DISTANCE
from tests.builders.images import random_pixels


def test_the_page_has_the_tables_of_the_record():
    page = (Path(__file__).parents[2] / "docs" / "exclusions.md").read_text(encoding="utf-8")
    assert tables(json.loads(RECORD.read_text(encoding="utf-8"))["sets"]) in page


def test_the_default_distance_finds_every_copy_that_was_encoded_again_or_resized():
    for found in json.loads(RECORD.read_text(encoding="utf-8"))["sets"].values():
        rates = {kind: found["copies"][kind][str(DEFAULT_MAX_DISTANCE)] for kind in COPIES}
        assert all(rate > 0.995 for kind, rate in rates.items() if not kind.startswith("cropped"))
        assert found["false_pairs"][str(DEFAULT_MAX_DISTANCE)] <= 1e-5 * found["pairs"]


@pytest.mark.slow
def test_copies_and_different_images_are_counted_by_distance():
    same = random_pixels(48, 64, seed=1)
    found = measure(Image.fromarray(pixels) for pixels in (same, same, random_pixels(48, 64, seed=2)))
    assert (found["images"], found["pairs"]) == (3, 3)
    # Two of the three are equal.
    assert [found["false_pairs"][str(each)] for each in DISTANCES] == [1] * len(DISTANCES)
    assert set(found["copies"]) == set(COPIES)
    assert found["copies"]["resized ×2"]["4"] == 1.0
