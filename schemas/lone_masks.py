"""What is kept of a mask that is alone in its image: one rule for the filter, `refilter`, `verify`, datasets, exports.

Such a mask has no rival. Its candidates have no distinctiveness, and no tau decides about them.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt

LoneMasks = Literal["keep", "drop", "better_half"]
LONE_MASKS: Final[tuple[LoneMasks, ...]] = get_args(LoneMasks)

Ints = npt.NDArray[np.int64]


def is_lone(distinctiveness: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return (T,) bool: whether each candidate's mask is alone in its image; ask only for candidates of a model."""
    return np.isnan(distinctiveness)


def lone_draws(
    lone_masks: LoneMasks, *, masks: npt.ArrayLike, correctness: npt.NDArray[np.float64], counts: npt.ArrayLike
) -> Ints:
    """Return (T,) int64: how many draws of each candidate are kept; the candidates are those of lone masks.

    Args:
        lone_masks: `keep`: all draws. `drop`: none. `better_half`: of the draws of each mask, the half with the highest
            correctness, rounded down, at least one. Of equal draws the last row's come first, as in the authors'
            reversed sort; undefined ones are last.
        masks: (T,), the mask of each candidate: ids or numbers.
        correctness: (T,), NaN where undefined.
        counts: (T,) int, how often the captioner drew the text; 0 counts as 1.

    Source: the loader of the Pseudo-RIS authors (method page, section 5) for `better_half`.
    """
    draws = np.maximum(np.asarray(counts, np.int64), 1)
    if lone_masks != "better_half":
        return draws if lone_masks == "keep" else np.zeros_like(draws)
    _, numbers = np.unique(np.asarray(masks), return_inverse=True)
    # NaN sorts last.
    order = np.lexsort((-np.arange(len(draws)), -correctness, numbers))
    totals = np.bincount(numbers, weights=draws).astype(np.int64)
    before = np.cumsum(draws[order]) - draws[order] - (np.cumsum(totals) - totals)[numbers[order]]
    kept = np.zeros_like(draws)
    kept[order] = np.clip(np.maximum(totals // 2, 1)[numbers[order]] - before, 0, draws[order])
    return kept
