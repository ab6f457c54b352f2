"""Kind, number of targets and confidence of composed rows, and of no others."""

import numpy as np
import pyarrow as pa
import pytest

from store.composed_checks import composed_problems


def problems(*rows, is_composed=None, confidence=None):
    """Check rows of (kind, number of targets), all of one confidence."""
    table = pa.table(
        {
            "kind": pa.array([kind for kind, _ in rows], pa.string()),
            "target_mask_ids": pa.array([["m"] * count for _, count in rows], pa.list_(pa.string())),
            "confidence": pa.array([confidence] * len(rows), pa.float64()),
        }
    )
    flags = np.ones(len(rows), np.bool_) if is_composed is None else np.array(is_composed)
    return list(composed_problems(7, table, flags))


def test_each_kind_has_its_number_of_targets():
    assert problems(("position", 1), ("relation", 1), ("group", 2), ("group", 9), ("none", 0)) == []


@pytest.mark.parametrize(
    ("kind", "count"),
    [("position", 0), ("position", 2), ("relation", 2), ("group", 1), ("none", 1), ("attribute", 2), (None, 1)],
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


@pytest.mark.parametrize("confidence", [None, 0.0, 0.93, 1.0])
def test_a_composed_row_may_say_how_likely_it_is(confidence):
    assert problems(("position", 1), confidence=confidence) == []


@pytest.mark.parametrize("confidence", [-0.1, 1.2])
def test_what_is_no_probability_is_named_with_its_row(confidence):
    (problem,) = problems(("position", 1), confidence=confidence)
    assert problem.detail == f"row 0: the confidence {confidence:g} is no probability"
    assert problems(("position", 1), confidence=confidence, is_composed=[False]) == []
