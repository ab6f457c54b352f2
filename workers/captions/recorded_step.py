"""A step of decoding that a GPU records once and replays. For `static_decoder` and `static_engine`.

The proof asks for the same step `launched`: it must give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


class RecordedStep:
    """A function of fixed addresses, which a GPU records at its second run and replays from then on.

    The first run is not recorded: libraries allocate their workspaces in it.
    """

    # False in `launched`.
    are_recorded = True

    def __init__(self, step: Callable[[], None], recordings: Any) -> None:
        """Take the recording's memory from `recordings`, which steps that do not run at once share; None on a CPU."""
        self._step, self._recordings = step, recordings
        self._graph: torch.cuda.CUDAGraph | None = None
        self._has_run = False

    def __call__(self) -> None:
        """Run it."""
        if not (self._has_run and self.are_recorded) or self._recordings is None:
            self._has_run = True
            self._step()
            return
        if self._graph is None:
            graph = torch.cuda.CUDAGraph()
            # Recording computes nothing, so this step too is computed by the replay below.
            with torch.cuda.graph(graph, pool=self._recordings):
                self._step()
            # `_graph` is set only after the recording, because a recording whose step raised is incomplete.
            self._graph = graph
        self._graph.replay()


@contextmanager
def launched() -> Iterator[None]:
    """Launch all steps in the block without their recordings: more slowly, with the same bits."""
    before, RecordedStep.are_recorded = RecordedStep.are_recorded, False
    try:
        yield
    finally:
        RecordedStep.are_recorded = before
