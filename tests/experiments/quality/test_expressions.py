"""The part about expressions on fresh scenes: from figures to the page."""

import numpy as np

from experiments.quality import expressions


def _sets(accuracy: float) -> dict[str, dict[str, dict[str, float]]]:
    kept = {
        name: {"value": value, "low": value - 0.01, "high": value + 0.01}
        for name, value in {"accuracy": accuracy, "yield": 2.5, "coverage": 0.8}.items()
    }
    return {"kept": kept, "all": {**kept, "coverage": {"value": 0.87, "low": 0.86, "high": 0.88}}}


RESULT = {
    "scenes": 300,
    "configurations": {
        name: {
            world: {**_sets(accuracy + at / 100), "bounded": {"accuracy": 0.95, "yield": 2.5, "coverage": 0.6}}
            for at, world in enumerate(expressions.WORLDS)
        }
        for name, accuracy in (("tiny-composed", 0.9), ("listener-composer.yaml", 0.8))
    }
    | {"tiny": {"default": _sets(0.7)}},
}


def test_a_row_a_world_and_what_all_draws_and_bounds_cover() -> None:
    rows = expressions.section(RESULT).splitlines()

    assert any(
        "`fourth` | 0.930 [0.920, 0.940]" in row and row.endswith("0.870 [0.860, 0.880] | 0.600 |") for row in rows
    )
    assert any(row.startswith("| `listener-composer.yaml` | `fourth` | 0.830 [0.820, 0.840]") for row in rows)
    assert any(row.startswith("| `tiny` | `default` | 0.700") for row in rows)


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
