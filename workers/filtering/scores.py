"""The three scores of a candidate expression, as pure functions of two matrices of cosines.

For the T candidates of one image's N masks (method page, section 4; paper section 3.3):

    c(k, t)  cosine of the context crop of mask k with caption t
    m(k, t)  cosine of the masked crop of mask k with "a photo of a {head noun of t}"

    uniqueness(i, t)      = c(i, t) / max over k ≠ i of c(k, t)
    correctness(i, t)     = m(i, t)
    distinctiveness(i, t) = c(i, t)·m(i, t) / max over k ≠ i of c(k, t)·m(k, t)
    rival(i, t)           = argmax over k ≠ i of c(k, t)·m(k, t)

A mask alone in its image has no others. Its uniqueness, distinctiveness and rival are undefined, and only correctness
ranks its candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CandidateScores:
    """The scores of T candidates.

    Attributes:
        correctness: (T,) float64 in [min_cosine, 1].
        uniqueness: (T,) float64, positive; None if the image has one mask.
        distinctiveness: (T,) float64, positive; None if the image has one mask.
        rival: (T,) int64, index of the other mask with the highest score, the first of equals; None if the image has
            one mask.
    """

    correctness: Floats
    uniqueness: Floats | None
    distinctiveness: Floats | None
    rival: npt.NDArray[np.int64] | None


def score_candidates(
    context: npt.ArrayLike, masked: npt.ArrayLike, *, targets: npt.ArrayLike, min_cosine: float
) -> CandidateScores:
    """Return the scores of the T candidates of one image.

    Args:
        context: (N, T) cosines c in [-1, 1].
        masked: (N, T) cosines m in [-1, 1].
        targets: (T,) int, the mask that each candidate describes, in 0 .. N-1.
        min_cosine: Cosines are clamped to at least this: the product of two negative cosines would rank a mask that
            fits neither text first.

    Raises:
        ValueError: The shapes disagree, a target is not a mask, or a cosine is not finite. NaN would compare as "not
            above tau", so a broken model would look like a strict filter.
    """
    c = _clamped(context, min_cosine)
    m = _clamped(masked, min_cosine)
    target = np.asarray(targets, dtype=np.int64)
    _check(c, m, target)
    own = np.arange(len(target))
    correctness = m[target, own]
    if len(c) == 1:
        return CandidateScores(correctness, uniqueness=None, distinctiveness=None, rival=None)
    product = c * m
    others_c, others_product = c.copy(), product.copy()
    others_c[target, own] = others_product[target, own] = -np.inf
    return CandidateScores(
        correctness,
        uniqueness=c[target, own] / others_c.max(axis=0),
        distinctiveness=product[target, own] / others_product.max(axis=0),
        rival=others_product.argmax(axis=0),
    )


def _clamped(cosines: npt.ArrayLike, min_cosine: float) -> Floats:
    # In float64, so that a ratio of two float32 cosines is rounded only once.
    return np.maximum(np.asarray(cosines, dtype=np.float64), min_cosine)


def _check(c: Floats, m: Floats, target: npt.NDArray[np.int64]) -> None:
    if c.ndim != 2 or c.shape != m.shape or target.shape != c.shape[1:]:
        raise ValueError(f"expected (N, T), (N, T) and (T,), got {c.shape}, {m.shape} and {target.shape}")
    if target.size and (target.min() < 0 or target.max() >= len(c)):
        raise ValueError(f"targets must lie in 0..{len(c) - 1}, got {target.min()}..{target.max()}")
    if not (np.isfinite(c).all() and np.isfinite(m).all()):
        raise ValueError("a cosine is not finite: the weights or the crop hold NaN")
