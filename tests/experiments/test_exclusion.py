"""The record of how far copies are by the perceptual hash, and the default of `--exclude`."""

import json
from pathlib import Path

from pseudoris.images.perceptual_hash import DEFAULT_MAX_DISTANCE

RECORD = Path(__file__).parents[2] / "experiments" / "results" / "exclusion.json"


def test_the_default_distance_finds_every_copy_that_was_encoded_again_or_resized():
    for found in json.loads(RECORD.read_text(encoding="utf-8"))["sets"].values():
        rates = {kind: rate[str(DEFAULT_MAX_DISTANCE)] for kind, rate in found["copies"].items()}
        assert all(rate > 0.995 for kind, rate in rates.items() if not kind.startswith("cropped"))
        assert found["false_pairs"][str(DEFAULT_MAX_DISTANCE)] <= 1e-5 * found["pairs"]
