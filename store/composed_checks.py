"""What must hold of composed expressions beside what holds of all that was not drawn: kind, targets and confidence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.keeping import Flags
from store.content_checks import Problem, examples

# By kind, the least and the largest number of masks that it refers to.
_TARGETS: Final = {"attribute": (1, 1), "position": (1, 1), "relation": (1, 1), "group": (2, None), "none": (0, 0)}


def composed_problems(shard: int, table: pa.Table, is_composed: Flags) -> Iterator[Problem]:
    """Check kind, number of targets and confidence of the rows that the composer wrote, (rows,) bool."""
    kinds = table["kind"].to_pylist()
    numbers = pc.list_value_length(table["target_mask_ids"]).to_pylist()
    details = []
    for row in np.flatnonzero(is_composed).tolist():
        least, most = _TARGETS.get(kinds[row], (1, 0))
        if numbers[row] < least or (most is not None and numbers[row] > most):
            known = ", ".join(_TARGETS)
            details.append(
                f"row {row}: a composed expression of kind {kinds[row]!r} refers to {numbers[row]} masks; the "
                f"kinds are {known}, with one mask, one, one, several and none"
            )
    yield from examples(shard, "expression_composed", details)
    # Null where shares decided.
    confidence = pc.fill_null(table["confidence"], np.nan).to_numpy()
    is_wrong = is_composed & ((confidence < 0) | (confidence > 1))
    found = (f"row {row}: the confidence {confidence[row]:g} is no probability" for row in np.flatnonzero(is_wrong))
    yield from examples(shard, "expression_composed", found)
