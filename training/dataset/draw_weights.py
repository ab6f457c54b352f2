"""How likely each candidate of a shard is drawn, where all candidates of its mask decide that together."""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pseudoris.schemas.lone_masks import is_lone, lone_draws
from pseudoris.schemas.shard import SOURCE_MODEL
from pseudoris.store.tables.keep_rule import floats_of
from pseudoris.training.dataset.samples import SampleSpec

# What `draw_weights` reads of the expressions table.
WEIGHT_COLUMNS: Final = ("source", "kept", "distinctiveness", "correctness", "count", "weight")
# A weight of 1 as an integer: as fine as the column `weight` is rounded.
FULL_WEIGHT: Final = 2**20


def draw_weights(spec: SampleSpec, candidates: pa.Table, masks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the weight of each candidate among those of its mask, (E,) int64; 0 for one that is never drawn.

    With `draw="distinct"` a weight is 0 or 1; with `pseudo_ris` the number of the captioner's draws that may be drawn
    again; with `weighted` the column `weight` in units of 1 / `FULL_WEIGHT`.

    Args:
        spec: Which candidates, and how they are drawn.
        candidates: All candidates of some masks that pass the other conditions of `spec.where`, `WEIGHT_COLUMNS`.
        masks: (E,), a number from 0 for the mask of each.

    Source: the loader of the Pseudo-RIS authors (method page, section 5).
    """
    distinctiveness, correctness = (floats_of(candidates[name]) for name in ("distinctiveness", "correctness"))
    # What was not drawn, as a human's expression, has a count of 0.
    counts = np.maximum(pc.fill_null(candidates["count"], 0).to_numpy().astype(np.int64), 1)
    is_passing = _is_passing(spec, candidates, distinctiveness)
    if spec.draw == "pseudo_ris":
        num_passing = np.bincount(masks, weights=is_passing)
        is_passing |= num_passing[masks] == 0
    most = counts.copy()
    is_from_model = pc.equal(pc.fill_null(candidates["source"], SOURCE_MODEL), SOURCE_MODEL).to_numpy()
    rows = np.flatnonzero(is_lone(distinctiveness) & is_from_model)
    most[rows] = lone_draws(spec.lone_masks, masks=masks[rows], correctness=correctness[rows], counts=counts[rows])
    units = most if spec.draw == "pseudo_ris" else np.minimum(most, 1)
    if spec.draw == "weighted":
        units = units * np.rint(floats_of(candidates["weight"]) * FULL_WEIGHT).astype(np.int64)
    return np.where(is_passing, units, 0)


def _is_passing(spec: SampleSpec, candidates: pa.Table, distinctiveness: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return (E,) bool: above tau or without a distinctiveness; without a tau, what the run kept, or everything."""
    if spec.where.tau is not None:
        return ~(distinctiveness <= spec.where.tau)
    if spec.where.is_kept_only:
        return np.array(candidates["kept"].to_numpy(), np.bool_)
    return np.ones(len(distinctiveness), np.bool_)
