"""Simulates a run of days on a fleet that loses nodes and drivers. Shards between two events are computed.

Between two events a GPU does one shard after another, each in the same time, so how many it has done and how far it is
with the next follow from the clock alone. Events are few: losses and returns of nodes, deaths of the driver, ends of
windows. A hundred million images are a few thousand of them.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from pseudoris.pipeline.executor import window_size

_WARM_UP_ROUNDS: Final = 5
_ROUNDS: Final = 25


@dataclass(frozen=True, slots=True)
class DriverQueue:
    """The parts of the queue.

    Attributes:
        gpus: How many there are.
        shard_s: Mean seconds of a GPU's work on a shard.
        driver_s: Seconds of the driver a shard, one after another.
        in_flight: Shards assigned to a GPU at most, the one at work included.
        spread: Standard deviation of the work over its mean (gamma distributed); 0.0 is the worst case, in which all
            GPUs end at once for ever.
    """

    gpus: int
    shard_s: float
    driver_s: float
    in_flight: int = 2
    spread: float = 0.2

    def cycle_s(self, seed: int = 0) -> float:
        """Return the mean seconds from a GPU's shard to its next one: its work, and what it waits.

        All begin at once, as after a start; the first rounds do not count.
        """
        state = _State(self, np.random.default_rng(seed))
        warm = state.run_until(_WARM_UP_ROUNDS * self.gpus)
        end = state.run_until((_WARM_UP_ROUNDS + _ROUNDS) * self.gpus)
        return (end - warm) / _ROUNDS


class _State:
    """Shards waiting at GPUs and at the driver, and the heap of what ends next."""

    def __init__(self, queue: DriverQueue, draws: np.random.Generator) -> None:
        self._queue = queue
        self._draws = draws
        self._waiting = [queue.in_flight - 1] * queue.gpus
        self._is_working = [True] * queue.gpus
        self._asking: deque[int] = deque()
        self._is_driver_busy = False
        self._num_done = 0
        # (time, GPU) where a GPU's work ends, (time, -1 - GPU) where the driver has served one.
        self._events = [(self._work_s(), gpu) for gpu in range(queue.gpus)]
        heapq.heapify(self._events)

    def run_until(self, num_done: int) -> float:
        """Go on until so many shards are done; return the time of the last."""
        now = 0.0
        while self._num_done < num_done:
            now, who = heapq.heappop(self._events)
            if who >= 0:
                self._on_done(who, now)
            else:
                self._on_assigned(-1 - who, now)
        return now

    def _on_done(self, gpu: int, now: float) -> None:
        self._num_done += 1
        self._asking.append(gpu)
        self._serve(now)
        self._is_working[gpu] = False
        self._begin(gpu, now)

    def _on_assigned(self, gpu: int, now: float) -> None:
        self._is_driver_busy = False
        self._waiting[gpu] += 1
        self._begin(gpu, now)
        self._serve(now)

    def _begin(self, gpu: int, now: float) -> None:
        if self._waiting[gpu] and not self._is_working[gpu]:
            self._waiting[gpu] -= 1
            self._is_working[gpu] = True
            heapq.heappush(self._events, (now + self._work_s(), gpu))

    def _serve(self, now: float) -> None:
        if self._asking and not self._is_driver_busy:
            self._is_driver_busy = True
            heapq.heappush(self._events, (now + self._queue.driver_s, -1 - self._asking.popleft()))

    def _work_s(self) -> float:
        if self._queue.spread == 0.0:
            return self._queue.shard_s
        shape = self._queue.spread**-2
        return float(self._draws.gamma(shape, self._queue.shard_s / shape))


_HOUR_S: Final = 3_600.0


@dataclass(frozen=True, slots=True)
class Fleet:
    """What a run works on and what happens to it; times in seconds, rates an hour.

    Attributes:
        gpus: Nodes of one GPU each: what a larger node loses at once, several lose one by one.
        num_shards: To do.
        shard_s: A GPU's work on a shard.
        cycle_s: From one shard of a GPU to its next: its work and what it waits (`DriverQueue`).
        plan_s: To list and to plan, before anything starts; the fleet stands by.
        pool_start_s: Processes and models, at the start of a window or of a node.
        node_losses_per_h: Of one node.
        node_return_s: Until another stands in its place.
        driver_deaths_per_h: Of the driver or its node.
        driver_return_s: Until somebody has started it again.
        resume_s_per_shard: What a start takes for every shard that is committed: to list it, mostly.
        held_shards: Finished work, in shards, that lies on a node beside the shard at work and is lost with it.
    """

    gpus: int
    num_shards: int
    shard_s: float
    cycle_s: float
    plan_s: float = 0.0
    pool_start_s: float = 60.0
    node_losses_per_h: float = 0.05
    node_return_s: float = 300.0
    driver_deaths_per_h: float = 1 / 24
    driver_return_s: float = 300.0
    resume_s_per_shard: float = 0.0
    held_shards: float = 0.0


@dataclass(slots=True)
class Spent:
    """GPU seconds of a run by what they went to; `hours` is the clock's.

    Attributes:
        work: On shards that were committed.
        queue: Waiting for the driver.
        planning: Before the first start.
        starts: Of pools: at the beginning, and at every window.
        drains: GPUs without a shard while the last of a window are worked on.
        driver: Without a driver, and while one resumes.
        lost_to_drivers: Work thrown away by deaths of the driver.
        lost_to_nodes: Work thrown away by losses of nodes.
        node_starts: Of nodes that came in place of lost ones.
    """

    hours: float = 0.0
    work: float = 0.0
    queue: float = 0.0
    planning: float = 0.0
    starts: float = 0.0
    drains: float = 0.0
    driver: float = 0.0
    lost_to_drivers: float = 0.0
    lost_to_nodes: float = 0.0
    node_starts: float = 0.0
    num_node_losses: int = 0
    num_driver_deaths: int = 0
    num_windows: int = 0

    @property
    def paid(self) -> float:
        """GPU seconds in all, of nodes that stand."""
        return self.work + self.idle + self.lost_to_drivers + self.lost_to_nodes

    @property
    def idle(self) -> float:
        """GPU seconds without work."""
        return self.planning + self.queue + self.starts + self.drains + self.driver + self.node_starts

    @property
    def control_share(self) -> float:
        """Share of what was paid that did not go to work and would without any loss of nodes."""
        return (self.idle - self.node_starts + self.lost_to_drivers) / self.paid


def simulate(fleet: Fleet, seed: int) -> Spent:
    """Return what one run of `fleet` spends; equal seeds give equal runs."""
    return _Run(fleet, np.random.default_rng(seed)).run()


@dataclass(slots=True)
class _Run:
    fleet: Fleet
    draws: np.random.Generator
    spent: Spent = field(default_factory=Spent)
    now: float = 0.0
    num_done: int = 0
    # +inf: the node is away. In the future: it is starting.
    since: np.ndarray = field(init=False)
    returns: list[tuple[float, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.since = np.zeros(self.fleet.gpus)

    def run(self) -> Spent:
        """Go on until every shard is done."""
        self._restart(self.fleet.plan_s + self.fleet.pool_start_s)
        self.spent.planning += self.fleet.gpus * self.fleet.plan_s
        self.spent.starts += self.fleet.gpus * self.fleet.pool_start_s
        driver_dies = self._next(self.fleet.driver_deaths_per_h)
        while self.num_done < self.fleet.num_shards:
            window = window_size(self.fleet.num_shards - self.num_done)
            self.spent.num_windows += 1
            target = self.num_done + window
            if self._work_off(target, driver_dies):
                self._end_window(target)
            else:
                self._lose_driver()
                driver_dies = self._next(self.fleet.driver_deaths_per_h)
        self.spent.hours = self.now / _HOUR_S
        return self.spent

    def _work_off(self, target: int, driver_dies: float) -> bool:
        """Go on until `target` shards are done, through losses of nodes; False where the driver died before."""
        while True:
            node_lost = self._next(self.fleet.node_losses_per_h * self._num_alive())
            returned = self.returns[0][0] if self.returns else math.inf
            # It may have been due while the pools started.
            death = max(driver_dies, self.now)
            until = min(node_lost, returned, death)
            end = self._end_of(target, until)
            if end is not None:
                self.now = end
                return True
            self.now = until
            if until == death:
                return False
            if until == returned:
                self._return_node()
            else:
                self._lose_node()

    def _counts(self, at: float) -> np.ndarray:
        """Return the shards that each GPU has done since it began; an exact end counts."""
        elapsed = np.maximum(at - self.since, 0.0)
        return np.asarray(np.floor(elapsed / self.fleet.cycle_s + 1e-9))

    def _end_of(self, target: int, until: float) -> float | None:
        """Return when the target-th shard is done; None where that is not before `until`."""
        missing = target - self.num_done
        if math.isfinite(until):
            if self._counts(until).sum() < missing:
                return None
            latest = until
        else:
            starts = self.since[np.isfinite(self.since)]
            latest = float(starts.max()) + self.fleet.cycle_s * (missing // len(starts) + 1)
        low, high = self.now, latest
        while high - low > 1e-6 * self.fleet.cycle_s:
            middle = (low + high) / 2
            low, high = (low, middle) if self._counts(middle).sum() >= missing else (middle, high)
        return high

    def _settle(self) -> np.ndarray:
        """Count what is done at this moment; return each GPU's seconds into the shard that it has at work."""
        counts = self._counts(self.now)
        done = int(counts.sum())
        self.num_done += done
        self.spent.work += done * self.fleet.shard_s
        self.spent.queue += done * (self.fleet.cycle_s - self.fleet.shard_s)
        elapsed = np.where(np.isfinite(self.since), np.maximum(self.now - self.since, 0.0), 0.0)
        return np.maximum(elapsed - counts * self.fleet.cycle_s, 0.0)

    def _end_window(self, target: int) -> None:
        # Nothing was left to begin: what the clock takes for a shard begun, or just done as the last one, is a wait.
        self.spent.drains += float(self._settle().sum())
        unreal, self.num_done = self.num_done - target, target
        self.spent.drains += unreal * self.fleet.cycle_s
        self.spent.work -= unreal * self.fleet.shard_s
        self.spent.queue -= unreal * (self.fleet.cycle_s - self.fleet.shard_s)
        if self.num_done < self.fleet.num_shards:
            self.spent.starts += self._num_alive() * self.fleet.pool_start_s
            self._restart(self.fleet.pool_start_s)

    def _lose_driver(self) -> None:
        self.spent.num_driver_deaths += 1
        self.spent.lost_to_drivers += float(self._settle().sum())
        held = min(self.fleet.held_shards * self._num_alive(), self.num_done) * self.fleet.shard_s
        self.spent.lost_to_drivers += held
        self._take_back(held)
        away = self.fleet.driver_return_s + self.fleet.resume_s_per_shard * self.num_done + self.fleet.pool_start_s
        self.spent.driver += self._num_alive() * away
        self._restart(away)

    def _lose_node(self) -> None:
        self.spent.num_node_losses += 1
        gpu = int(self.draws.choice(np.flatnonzero(np.isfinite(self.since))))
        elapsed = self.now - self.since[gpu]
        if elapsed < 0:
            # Still starting: its wait was counted to the end, which does not come.
            self.spent.node_starts += elapsed
        else:
            done = math.floor(elapsed / self.fleet.cycle_s + 1e-9)
            self.num_done += done
            self.spent.work += done * self.fleet.shard_s
            self.spent.queue += done * (self.fleet.cycle_s - self.fleet.shard_s)
            held = min(self.fleet.held_shards, done) * self.fleet.shard_s
            self.spent.lost_to_nodes += elapsed - done * self.fleet.cycle_s + held
            self._take_back(held)
        self.since[gpu] = math.inf
        heapq.heappush(self.returns, (self.now + self.fleet.node_return_s, gpu))

    def _take_back(self, held_s: float) -> None:
        # Finished and not committed: done again. Fractions of a shard add up over losses in the mean.
        shards = held_s / self.fleet.shard_s
        whole = math.floor(shards) + int(self.draws.random() < shards % 1)
        self.num_done -= whole
        self.spent.work -= held_s

    def _return_node(self) -> None:
        _, gpu = heapq.heappop(self.returns)
        self.since[gpu] = self.now + self.fleet.pool_start_s
        self.spent.node_starts += self.fleet.pool_start_s

    def _restart(self, wait_s: float) -> None:
        self.now += wait_s
        while self.returns and self.returns[0][0] <= self.now:
            heapq.heappop(self.returns)
        away = {gpu for _, gpu in self.returns}
        self.since = np.array([math.inf if gpu in away else self.now for gpu in range(self.fleet.gpus)])

    def _num_alive(self) -> int:
        return int(np.isfinite(self.since).sum())

    def _next(self, per_hour: float) -> float:
        return self.now + float(self.draws.exponential(_HOUR_S / per_hour)) if per_hour > 0 else math.inf
