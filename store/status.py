"""How far a run has come and how fast it goes, alive or dead: from its header, receipts and lock, read only."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from schemas.config import RunConfig
from schemas.run import Receipt
from store.header import require_header
from store.location import RunLocation
from store.lock import WATCH_S, Holder, look_at_holder
from store.manifest import iter_manifest
from store.rates import Rates, measure_rates
from store.receipts import list_commits, read_receipt, read_receipts
from store.totals import Totals

DRIVER_NONE = "none"
DRIVER_ALIVE = "alive"
DRIVER_SILENT = "silent"


@dataclass(frozen=True, slots=True)
class Driver:
    """Who drives the run, as the lock's highest claim has it.

    Attributes:
        state: `alive`: its process was seen, or its claim was written within a minute; `silent`: it was not, and
            whether it died cannot be told from here; `none`: released, or died on this machine, or never begun.
        name: Process and machine; empty where there never was one.
        beaten_s_ago: Seconds since its claim was written, by the clocks of the storage and of this machine.
    """

    state: str
    name: str = ""
    beaten_s_ago: float | None = None


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """The stage that most of the time goes to.

    Attributes:
        stage: Its name.
        share: Of the seconds of all stages, in [0, 1].
        is_by_actor: Whether each stage's seconds were divided by its actors: staged pools of a stated size.
    """

    stage: str
    share: float
    is_by_actor: bool


@dataclass(frozen=True, slots=True)
class RunStatus:
    """Sums over the standing receipts.

    Attributes:
        source: SOURCE as given.
        num_shards: Planned.
        num_done: Shards with a receipt.
        num_images: Planned.
        num_images_done: In shards with a receipt; annotated + empty + quarantined.
        masks: Masks of annotated images.
        expressions: Candidate rows, kept or not; equal captions of a mask are one.
        samples: Draws before that.
        kept: Candidates above tau.
        reasons: Quarantined images by reason code, most frequent first.
        seconds: Wall seconds by stage, summed over shards.
        size_bytes: Of all committed parts.
        repeats: How many times a pool's work on a shard was done again, after a loss.
        retried: Shards whose standing generation is a retry.
        degraded: Shards for which settings were lowered: outside promise 2.
        mixed: Shards computed under another identity than the run's: outside promise 2.
        rates: Images a second, now and overall.
        bottleneck: None before the first commit.
        driver: Whether somebody works on it.
    """

    source: str
    num_shards: int
    num_done: int
    num_images: int
    num_images_done: int
    annotated: int
    empty: int
    quarantined: int
    masks: int
    expressions: int
    samples: int
    kept: int
    reasons: Mapping[str, int]
    seconds: Mapping[str, float]
    size_bytes: int
    repeats: int
    retried: int
    degraded: int
    mixed: int
    rates: Rates
    bottleneck: Bottleneck | None
    driver: Driver

    @property
    def is_complete(self) -> bool:
        """Whether every planned shard is committed."""
        return self.num_done == self.num_shards

    @property
    def eta_s(self) -> float | None:
        """Seconds that what is left takes, at the present rate, else at the overall one; None where neither is known.

        Where nobody drives the run they begin with the next start.
        """
        rate = self.rates.now or self.rates.overall
        return (self.num_images - self.num_images_done) / rate if rate else None


def run_status(location: RunLocation, *, now_s: float | None = None) -> RunStatus:
    """Return how far the run has come; reads the latest manifest and the receipts that it lacks.

    Raises:
        ConfigError: No run was started there, or its records cannot be used.
        TransientError: Storage failed.
    """
    return StatusReader(location).read(now_s=now_s)


class StatusReader:
    """Looks at one run again and again; what stands does not change, so each receipt is read once.

    Holds two numbers a shard, not the receipts: those of a large run would fill the memory.
    """

    def __init__(self, location: RunLocation) -> None:
        self._location = location
        self._totals = Totals()
        self._generations: dict[int, int] = {}
        self._images: dict[int, int] = {}
        self._is_first = True
        self._beat: tuple[str, int] | None = None
        self._has_moved_s = 0.0

    def read(self, *, now_s: float | None = None) -> RunStatus:
        """Return how the run stands; costs a listing of the receipts and the reading of the new ones.

        Args:
            now_s: Epoch seconds; the present by default.

        Raises:
            ConfigError: No run was started there, or its records cannot be used.
            TransientError: Storage failed.
        """
        now_s = time.time() if now_s is None else now_s
        # Read again each time: an extension of the plan may have been added.
        header = require_header(self._location)
        first_s: dict[int, tuple[int, float]] = {}
        highest: dict[int, int] = {}
        for shard, generation, modified_s in list_commits(self._location):
            highest[shard] = max(generation, highest.get(shard, 0))
            # A retry computes a few of the shard's images: the rate follows the commits that computed all.
            first_s[shard] = min((generation, modified_s), first_s.get(shard, (generation, modified_s)))
        self._catch_up(highest)
        done = self._totals.sum()
        rates = measure_rates(
            np.array([first_s[shard][1] for shard in self._images], np.float64),
            np.array(list(self._images.values()), np.int64),
            shard_s=sum(done.seconds.values()) / max(done.shards, 1),
            now_s=now_s,
        )
        driver = self._driver(look_at_holder(self._location), now_s)
        return RunStatus(
            source=header.source,
            num_shards=header.num_shards,
            num_done=done.shards,
            num_images=header.num_images,
            num_images_done=done.images,
            annotated=done.annotated,
            empty=done.empty,
            quarantined=done.quarantined,
            masks=done.masks,
            expressions=done.expressions,
            samples=done.samples,
            kept=done.kept,
            reasons=done.reasons,
            seconds=done.seconds,
            size_bytes=done.output_bytes,
            repeats=done.repeats,
            retried=done.retried,
            degraded=done.degraded,
            mixed=done.mixed,
            rates=rates if driver.state != DRIVER_NONE else replace(rates, now=None),
            bottleneck=find_bottleneck(done.seconds, header.config),
            driver=driver,
        )

    def _catch_up(self, highest: Mapping[int, int]) -> None:
        if any(highest.get(shard, -1) < generation for shard, generation in self._generations.items()):
            # Somebody deleted a receipt, so that its shard is done again: all is added up anew.
            self._totals, self._generations, self._images = Totals(), {}, {}
        new = {shard: generation for shard, generation in highest.items() if self._generations.get(shard) != generation}
        if self._is_first:
            self._is_first = False
            for receipt in iter_manifest(self._location):
                if new.get(receipt.shard) == receipt.generation:
                    del new[receipt.shard]
                    self._take(receipt)
        for receipt in read_receipts(self._location, sorted(new.items())):
            self._take(receipt)

    def _take(self, receipt: Receipt) -> None:
        before = self._generations.get(receipt.shard)
        if before is not None:
            superseded = read_receipt(self._location, receipt.shard, before)
            if superseded is not None:
                self._totals.remove(superseded)
        self._generations[receipt.shard] = receipt.generation
        self._images[receipt.shard] = receipt.counts.images
        self._totals.add(receipt)

    def _driver(self, holder: Holder | None, now_s: float) -> Driver:
        if holder is None:
            return Driver(DRIVER_NONE)
        if self._beat not in (None, holder.beat):
            # The counter moved between two looks: a sign of life by our own clock, however far off the storage's is.
            self._has_moved_s = now_s
        self._beat = holder.beat
        ago_s = max(0.0, now_s - max(holder.beaten_s, self._has_moved_s))
        if holder.is_gone:
            return Driver(DRIVER_NONE, holder.name, ago_s)
        is_alive = holder.is_here or ago_s <= WATCH_S
        return Driver(DRIVER_ALIVE if is_alive else DRIVER_SILENT, holder.name, ago_s)


def find_bottleneck(seconds: Mapping[str, float], config: RunConfig) -> Bottleneck | None:
    """Return the stage with the largest share of the seconds; None where there are none.

    Under the staged placement, where every pool's `max_actors` is stated, each model stage counts by its seconds an
    actor: a pool of eight is not behind because it adds up eight actors' time. The seconds of reading are then left
    out, as its tasks take what CPUs there are.
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
