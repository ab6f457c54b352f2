"""The speed of a run, from the times of its receipts, without pauses. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

# The window of `now`; longer if a shard takes so long that the window would hold fewer than three shards.
WINDOW_S: Final = 600.0
# A gap longer than the time of this many shards is a pause: no driver was running.
_PAUSE_IN_SHARDS: Final = 3.0
# The shortest pause: with shards that take seconds, a slow listing or a start of Ray is not a pause.
_MIN_PAUSE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Rates:
    """Images a second.

    Attributes:
        now: Over the last `window_s`; None if nothing was committed in it.
        overall: Over the time in which the run worked; None before the first commit.
        window_s: Length of the window of `now`.
        active_s: The time in which the run worked.
        num_pauses: Pauses that were subtracted from it.
    """

    now: float | None
    overall: float | None
    window_s: float
    active_s: float
    num_pauses: int


def measure_rates(
    times_s: npt.NDArray[np.float64], images: npt.NDArray[np.int64], *, shard_s: float, now_s: float
) -> Rates:
    """Return the rates of commits at `times_s` (N,) with `images` (N,) each, in any order.

    A gap between two commits is a pause between two sessions if it is longer than a minute and than three times
    `shard_s`. Only `shard_s` of a pause counts as work: the first commit after it took at least that long. The time
    before the very first commit counts the same. Actors that commit in bursts are at most `shard_s` apart, so they
    never count as a pause.

    Args:
        times_s: Epoch seconds by the storage's clock.
        images: Images of each commit.
        shard_s: Mean seconds that a shard takes from its first stage to its last.
        now_s: The present time. If it is before the last commit (clocks differ), the time of that commit is used.
    """
    pause_s = max(_MIN_PAUSE_S, _PAUSE_IN_SHARDS * shard_s)
    window_s = max(WINDOW_S, _PAUSE_IN_SHARDS * shard_s)
    if not times_s.size:
        return Rates(None, None, window_s, 0.0, 0)
    order = np.argsort(times_s, kind="stable")
    times_s, images = times_s[order], images[order]
    gaps = np.diff(times_s)
    is_pause = gaps > pause_s
    active_s = shard_s + float(np.where(is_pause, min(shard_s, pause_s), gaps).sum())
    # The present stretch of work: it begins one `shard_s` before the first commit after the last pause.
    first = int(np.flatnonzero(is_pause)[-1]) + 1 if is_pause.any() else 0
    now_s = max(now_s, float(times_s[-1]))
    since_s = max(now_s - window_s, float(times_s[first]) - shard_s)
    recent = int(images[times_s > since_s].sum())
    return Rates(
        now=recent / (now_s - since_s) if recent and now_s > since_s else None,
        overall=int(images.sum()) / active_s if active_s > 0 else None,
        window_s=window_s,
        active_s=active_s,
        num_pauses=int(is_pause.sum()),
    )
