"""The part about expressions on fresh scenes: from figures to the page."""

import numpy as np

from experiments.quality import expressions


def test_bounds_are_of_the_surest_expression_of_a_mask_and_of_its_others() -> None:
    ranked = expressions._Ranked(
        probability=np.array([0.9, 0.8, 0.6, 0.4]),
        is_right=np.array([True, False, True, True]),
        objects=np.array([0, -1, 1, 2]),
        is_first=np.array([True, False, True, True]),
        num_masks=3,
        num_objects=4,
    )
    assert ranked.figures(ranked.is_first) == {"accuracy": 1.0, "yield": 1.0, "coverage": 0.75}
    assert ranked.bounded(0.7, 1.2) == {"accuracy": 0.75, "yield": 4 / 3, "coverage": 0.75}
    assert ranked.bounded(1.0, 1.0) == ranked.figures(ranked.is_first)
    assert ranked.bounded(0.8, 1.2) is None
