"""How fast a run goes, from the times at which its receipts were listed: pure arithmetic, pauses aside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

# What "now" means, unless a shard takes so long that it would hold less than three of them.
WINDOW_S: Final = 600.0
# A longer silence than this many shards take from end to end is no work: the driver was away.
_PAUSE_IN_SHARDS: Final = 3.0
# With shards of seconds, a slow listing or a start of Ray is no pause yet.
_MIN_PAUSE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Rates:
    """Images a second.

    Attributes:
        now: Over the last `window_s`; None where nothing was committed in it.
        overall: Over the time in which the run worked; None before the first commit.
        window_s: What `now` looks back on.
        active_s: The time in which the run worked.
        num_pauses: Silences that were taken out of it.
    """

    now: float | None
    overall: float | None
    window_s: float
    active_s: float
    num_pauses: int


def measure_rates(
    times_s: npt.NDArray[np.float64], images: npt.NDArray[np.int64], *, shard_s: float, now_s: float
) -> Rates:
    """Return the rates of commits at `times_s` (N,), each of so many `images` (N,); in any order.

    A gap between two commits that is longer than a minute, and than three times `shard_s`, is a pause between two
    starts: only `shard_s` of it counts as work, which is what its first commit took at least. So does the time
    before the very first commit. Actors that commit in bursts are a `shard_s` apart at most, and so never pause.

    Args:
        times_s: Epoch seconds by the storage's clock.
        images: Of each commit.
        shard_s: Mean seconds that a shard takes from its first stage to its last.
        now_s: The present. A clock behind the storage's is put forward to the last commit.
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
    # The stretch of work that goes on: it begins a shard before the commit that ended the last pause.
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
