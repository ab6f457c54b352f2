"""Runs stages in a subprocess that may die: the parent's side, which starts, feeds and reaps it.

Called by `tolerant_stages`; `caption_texts` and the child's side take `send`. Whatever happens to the child, the parent
must get an answer or one of the errors of `SubprocessStages`, and no child may outlive its block.
"""

from __future__ import annotations

import pickle
import subprocess
from typing import IO, Final, Self, cast

from pseudoris.images.child_process import end_child, start_child
from pseudoris.primitives.errors import NoSubprocessError
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.shard import Shard

_MAIN: Final = "pseudoris.workers.faults.subprocess_stages_main"
_END_TIMEOUT_S: Final = 30.0


class ChildDiedError(Exception):
    """The child ended before it answered.

    Attributes:
        stage: The stage that it was in; None if it was loading models.
        status: Exit status, a signal as a negative number.
    """

    def __init__(self, stage: str | None, status: int) -> None:
        super().__init__(f"a child process ended in stage {stage} with status {status}")
        self.stage = stage
        self.status = status


class ChildOutOfMemoryError(Exception):
    """The child ran out of memory, on the host or on the accelerator, and has ended."""


class SubprocessStages:
    """The stages of `names` in a child process with its own models. The child starts at the first call.

    If the child dies, or fails so that its state is uncertain, the next call replaces it. Use as a context manager: the
    child ends with the block. Not thread-safe.
    """

    def __init__(self, names: tuple[str, ...], config: RunConfig) -> None:
        self._config = config
        self._names = names
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._reap()

    def __call__(self, shard: Shard) -> Shard:
        """Return the shard after the stages.

        Raises:
            ChildDiedError: The child ended.
            ChildOutOfMemoryError: It ran out of memory.
            NoSubprocessError: No child can be started.
            BrokenDeviceError: Its accelerator failed.
            TransientError: A stage raised an error that is not an image's fault: of files, of the machine, or a bug.
            PseudorisError: A stage raised one.
        """
        if self._child is None:
            try:
                self._child = start_child(_MAIN, ",".join(self._names), self._config.model_dump_json())
            except OSError as error:
                raise NoSubprocessError(f"no subprocess can be started: {error}") from error
        child, stage = self._child, None
        try:
            send(cast("IO[bytes]", child.stdin), shard)
            while True:
                # The pickle comes from our own child, so it is safe.
                answer: str | Shard | Exception = pickle.load(cast("IO[bytes]", child.stdout))
                if isinstance(answer, Shard):
                    return answer
                if isinstance(answer, Exception):
                    break
                stage = answer
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            raise ChildDiedError(stage, self._reap()) from None
        self._reap()
        raise answer

    def _reap(self) -> int:
        child, self._child = self._child, None
        return 0 if child is None else end_child(child, timeout_s=_END_TIMEOUT_S)


def send(stream: IO[bytes], message: object) -> None:
    """Write a message between parent and child."""
    pickle.dump(message, stream)
    stream.flush()
