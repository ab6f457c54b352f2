"""A step of decoding that a GPU records once and replays. For `static_decoder` and `static_engine`.

A step that is launched gives the same bits. The proof compares the two, and where recording fails steps are launched.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pseudoris.workers.faults.quarantine import is_out_of_memory

logger = logging.getLogger(__name__)


class RecordedStep:
    """A function of fixed addresses, which a GPU records at its second run and replays from then on.

    The first run is not recorded: libraries allocate their workspaces in it.
    """

    # False in `launched`, and after `launch_from_now_on`.
    are_recorded = True

    def __init__(self, step: Callable[[], None], recordings: Any) -> None:
        """Take the recording's memory from `recordings`, which steps that do not run at once share; None on a CPU."""
        self._step, self._recordings = step, recordings
        self._graph: torch.cuda.CUDAGraph | None = None
        self._has_run = False

    def __call__(self) -> None:
        """Run it.

        Raises:
            AcceleratorError: Of torch: recording failed, and has left a device that cannot be used any further.
        """
        if not (self._has_run and self.are_recorded) or self._recordings is None:
            self._has_run = True
            self._step()
            return
        if self._graph is None:
            self._record()
        # Recording computes nothing, so this step too is computed here.
        if self._graph is None:
            self._step()
        else:
            self._graph.replay()

    def _record(self) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._recordings):
                self._step()
        # A driver may word a refusal in any way.
        except Exception as error:
            if is_out_of_memory(error):
                raise
            # This raises if the device is broken. If the step itself is at fault, it raises again where it is launched.
            torch.cuda.synchronize()
            launch_from_now_on(f"a step cannot be recorded ({type(error).__name__}: {error})")
        else:
            # It is set only after the recording, because a recording whose step raised is incomplete.
            self._graph = graph


def launch_from_now_on(why: str) -> None:
    """Launch all steps of this process without their recordings: more slowly, with the same bits."""
    logger.warning("captions: %s: steps are launched one by one from now on, which changes no result", why)
    RecordedStep.are_recorded = False


@contextmanager
def launched() -> Iterator[None]:
    """Launch all steps in the block."""
    before, RecordedStep.are_recorded = RecordedStep.are_recorded, False
    try:
        yield
    finally:
        RecordedStep.are_recorded = before
