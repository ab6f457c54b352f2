"""Images whose right candidates are known by construction."""

from __future__ import annotations

import numpy as np

from pseudoris.schemas.fitted import CONFIDENCE_COLUMNS, Rated
from pseudoris.training.calibration.confidence_fit import JudgedImage

NUM_CANDIDATES = 12


def scene(seed: int) -> JudgedImage:
    """Return three masks' candidates, of which the true and unambiguous ones are right, but for noise."""
    draw = np.random.default_rng(seed)
    size = 3 * NUM_CANDIDATES
    scores = {name: draw.uniform(0.4, 1.0, size) for name in CONFIDENCE_COLUMNS}
    scores["truth"] = draw.uniform(-2, 0, size)
    scores["caption_score"] = scores["truth"] * 5
    scores["uniqueness"] = draw.uniform(0.7, 1.5, size)
    odds = 4 * (scores["truth"] + 1) + 6 * np.log(scores["uniqueness"])
    is_right = draw.random(size) < 1 / (1 + np.exp(-odds))
    groups = [f"{seed}-{n // NUM_CANDIDATES}" for n in range(size)]
    texts = [f"a {n % 3} {n}" for n in range(size)]
    return JudgedImage(Rated(groups, texts, scores), is_right, np.arange(size) // NUM_CANDIDATES, 3, 4)
