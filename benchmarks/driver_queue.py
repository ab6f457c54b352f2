"""Simulates how long GPUs wait for a driver that serves one shard at a time: a closed queue, event by event.

Each GPU has a few shards assigned: one at work, the others beside it. A shard that is done needs the driver for a
while, which then assigns the next one. A plain heap serves: there are two kinds of event, and over millions of them a
framework of processes (SimPy) would take ten times as long.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np

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
