"""Kind and number of targets of composed rows, and of no others."""

import numpy as np
import pyarrow as pa
import pytest

from store.composed_checks import composed_problems


def problems(*rows, is_composed=None):
    """Check rows of (kind, number of targets)."""
    table = pa.table(
        {
            "kind": pa.array([kind for kind, _ in rows], pa.string()),
            "target_mask_ids": pa.array([["m"] * count for _, count in rows], pa.list_(pa.string())),
        }
    )
    flags = np.ones(len(rows), np.bool_) if is_composed is None else np.array(is_composed)
    return list(composed_problems(7, table, flags))


def test_each_kind_has_its_number_of_targets():
    assert problems(("position", 1), ("relation", 1), ("group", 2), ("group", 9), ("none", 0)) == []


@pytest.mark.parametrize(
    ("kind", "count"),
    [("position", 0), ("position", 2), ("relation", 2), ("group", 1), ("none", 1), ("attribute", 1), (None, 1)],
)
def test_another_number_or_kind_is_named_with_its_row(kind, count):
    (problem,) = problems(("position", 1), (kind, count))
    assert (problem.shard, problem.what) == (7, "expression_composed")
    assert problem.detail.startswith(f"row 1: a composed expression of kind {kind!r} refers to {count} masks")


def test_rows_of_others_are_not_looked_at():
    assert problems(("attribute", 3), ("none", 1), is_composed=[False, False]) == []


def test_of_a_lost_table_a_few_examples_are_told_and_the_rest_counted():
    found = problems(*[("group", 1)] * 9)
    assert len(found) == 6
    assert found[-1].detail == "and 4 more"
