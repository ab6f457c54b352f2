"""Measures a run's progress and speed from its header, receipts and lock. Called by `cli` and `viewer`. Only reads.

A large run is watched for days: each look may cost one listing and the new receipts, and memory two numbers a shard.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from pseudoris.files.location import RunLocation
from pseudoris.schemas.config import RunConfig
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.lock import WATCH_S, Holder, current_holder
from pseudoris.store.runs.manifest import cached_receipts
from pseudoris.store.runs.receipts import RunTotals, Totals, list_commits, read_receipt, read_receipts

# The present rate is measured over this many seconds, or over the time of three shards if that is longer.
WINDOW_S: Final = 600.0
# A gap between commits of more than this many mean shard times is a pause: no driver was running.
_PAUSE_IN_SHARDS: Final = 3.0
# A gap shorter than this is never a pause, because with fast shards a listing or a start of Ray takes as long.
_MIN_PAUSE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Rates:
    """Images per second: `now` over the last `window_s`, `overall` over the `active_s` without `num_pauses` pauses.

    None where nothing was committed.
    """

    now: float | None
    overall: float | None
    window_s: float
    active_s: float
    num_pauses: int

    @property
    def text(self) -> str:
        """The speed of the run for people: `overall`, without its start and its pauses."""
        return "–" if self.overall is None else f"{self.overall:.3g} images/s overall"


def measure_rates(
    times_s: npt.NDArray[np.float64], images: npt.NDArray[np.int64], *, shard_s: float, now_s: float
) -> Rates:
    """Return the rates of commits at `times_s` (N,) with `images` (N,) each, in any order.

    A gap between two commits is a pause between sessions if it is longer than a minute and than three times `shard_s`,
    the mean seconds of a shard from its first stage to its last. Only `shard_s` of a pause counts as work: the first
    commit after it took at least that long. The time before the very first commit counts the same. Actors that commit
    in bursts are at most `shard_s` apart, so they never count as a pause. Times are epoch seconds by the storage's
    clock; a `now_s` before the last commit (clocks differ) counts as the time of that commit.
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
    # `first` is the first commit after the last pause. The present session started `shard_s` seconds before it.
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


DRIVER_NONE = "none"
DRIVER_ALIVE = "alive"
DRIVER_SILENT = "silent"


@dataclass(frozen=True, slots=True)
class Driver:
    """The driver of the run, by the lock's highest claim.

    Attributes:
        state: `alive`: its process was seen, or its claim was written within the last minute; `silent`: neither, and
            this machine cannot tell whether it died; `none`: it released the lock, died on this machine, or never
            began.
        name: Process and machine; empty if there never was one.
        beaten_s_ago: Seconds since its claim was written, by the clocks of the storage and of this machine.
        death: If it was killed, when, and the limits in force; if it is silent, the same if it was. Else None.
    """

    state: str
    name: str = ""
    beaten_s_ago: float | None = None
    death: str | None = None


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """The stage that takes most of the time, with its share in [0, 1] of the seconds of all stages.

    `is_by_actor`: each stage's seconds were divided by its actors, as in staged pools with a fixed size.
    """

    stage: str
    share: float
    is_by_actor: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus(RunTotals):
    """Sums over the committed shards, and what they say of the run; `num_shards` and `num_images` are planned."""

    source: str
    num_shards: int
    num_images: int
    rates: Rates
    bottleneck: Bottleneck | None
    driver: Driver

    @property
    def is_complete(self) -> bool:
        """Whether every planned shard is committed."""
        return self.shards == self.num_shards

    @property
    def eta_s(self) -> float | None:
        """Seconds until the remaining images are done, with a driver at work; None if no rate is known."""
        rate = self.rates.now or self.rates.overall
        return (self.num_images - self.images) / rate if rate else None


def run_status(location: RunLocation) -> RunStatus:
    """Return the status of the run; reads the latest manifest and the receipts that it lacks."""
    return StatusReader(location).read()


class StatusReader:
    """Reads the status of one run repeatedly. Receipts do not change, so each one is read once, and not kept."""

    def __init__(self, location: RunLocation) -> None:
        self._location = location
        self._totals = Totals()
        self._generations: dict[int, int] = {}
        self._images: dict[int, int] = {}
        self._beat: tuple[str, int] | None = None
        self._has_moved_s = 0.0

    def read(self, *, now_s: float | None = None) -> RunStatus:
        """Return the present status: lists the receipts, and reads the new ones. Raises as `require_header`."""
        now_s = time.time() if now_s is None else now_s
        # The header is read again each time, because the plan may have been extended.
        header = require_header(self._location)
        first_s: dict[int, tuple[int, float]] = {}
        highest: dict[int, int] = {}
        for shard, generation, modified_s in list_commits(self._location):
            highest[shard] = max(generation, highest.get(shard, 0))
            # The rate uses the time of a shard's first commit, because a retry computes only a few of its images.
            first_s[shard] = min((generation, modified_s), first_s.get(shard, (generation, modified_s)))
        self._catch_up(highest)
        done = self._totals.sum()
        rates = measure_rates(
            np.array([first_s[shard][1] for shard in self._images], np.float64),
            np.array(list(self._images.values()), np.int64),
            shard_s=sum(done.seconds.values()) / max(done.shards, 1),
            now_s=now_s,
        )
        driver = self._driver(current_holder(self._location), now_s)
        return RunStatus(
            **{each.name: getattr(done, each.name) for each in fields(done)},
            source=header.source,
            num_shards=header.num_shards,
            num_images=header.num_images,
            rates=rates if driver.state != DRIVER_NONE else replace(rates, now=None),
            bottleneck=find_bottleneck(done.seconds, header.config),
            driver=driver,
        )

    def _catch_up(self, highest: Mapping[int, int]) -> None:
        if any(highest.get(shard, -1) < generation for shard, generation in self._generations.items()):
            # A receipt was deleted, so its shard is computed again. All totals are reset, as they include it.
            self._totals, self._generations, self._images = Totals(), {}, {}
        new = {shard: generation for shard, generation in highest.items() if self._generations.get(shard) != generation}
        wanted = sorted(new.items())
        is_first = not self._generations
        found = cached_receipts(self._location, commits=wanted) if is_first else read_receipts(self._location, wanted)
        for receipt in found:
            before = self._generations.get(receipt.shard)
            superseded = None if before is None else read_receipt(self._location, receipt.shard, before)
            if superseded is not None:
                self._totals.remove(superseded)
            self._generations[receipt.shard] = receipt.generation
            self._images[receipt.shard] = receipt.counts.images
            self._totals.add(receipt)

    def _driver(self, holder: Holder | None, now_s: float) -> Driver:
        if holder is None:
            return Driver(DRIVER_NONE)
        if self._beat not in (None, holder.beat):
            # The lock's counter has changed since the last read, so the driver is alive, even if its time looks old.
            self._has_moved_s = now_s
        self._beat = holder.beat
        ago_s = max(0.0, now_s - max(holder.beaten_s, self._has_moved_s))
        if not holder.is_gone and (holder.is_here or ago_s <= WATCH_S):
            return Driver(DRIVER_ALIVE, holder.name, ago_s)
        return Driver(DRIVER_NONE if holder.is_gone else DRIVER_SILENT, holder.name, ago_s, holder.death)


def find_bottleneck(seconds: Mapping[str, float], config: RunConfig) -> Bottleneck | None:
    """Return the stage with the largest share of the seconds; None if there are none.

    Under the staged placement, if every pool has a `max_actors`, each model stage counts its seconds per actor: a pool
    of eight actors is not slower because it sums the time of eight. Reading is then left out: it uses whatever CPUs are
    free.
    """
    pools = config.model_pools()
    sizes = {name: pool.max_actors for name, pool in pools.items()}
    is_by_actor = config.placement.mode == "staged" and None not in sizes.values()
    shares = {stage: each / (sizes[stage] or 1) for stage, each in seconds.items() if stage in sizes}
    weights = shares if is_by_actor else dict(seconds)
    total = sum(weights.values())
    if not total:
        return None
    stage = max(weights, key=lambda name: weights[name])
    return Bottleneck(stage, weights[stage] / total, is_by_actor)
