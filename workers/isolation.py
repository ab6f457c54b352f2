"""Stages in a child process, for shards that may kill whoever works on them, and for a second try in a fresh one."""

from __future__ import annotations

import logging
import pickle
import subprocess
from contextlib import suppress
from types import TracebackType
from typing import IO, Any, Final, Self, cast

from schemas.config import RunConfig
from schemas.errors import BrokenDeviceError, TransientError
from schemas.shard import Failure, Shard, ShardImage
from workers.children import is_from_outside, start_child

logger = logging.getLogger(__name__)

KILLED: Final = "process_killed"
_END_TIMEOUT_S: Final = 30.0
# Ends of the child from outside, on one image, after which the machine is to blame and not the next try to hope for.
_MAX_ENDS_FROM_OUTSIDE: Final = 3


class ChildDiedError(Exception):
    """The child ended before it answered.

    Attributes:
        stage: The stage that it was in; None while it loaded models.
        status: Exit status, a signal as a negative number.
    """

    def __init__(self, stage: str | None, status: int) -> None:
        super().__init__(f"a child process ended in stage {stage} with status {status}")
        self.stage = stage
        self.status = status

    @property
    def is_from_outside(self) -> bool:
        """Whether somebody else ended it; the shard is not to blame then."""
        return is_from_outside(self.status)


class ChildOutOfMemoryError(Exception):
    """The child had no memory left, on the host or on the accelerator; it has ended.

    Attributes:
        stage: The stage that it was in; None while it loaded models.
    """

    def __init__(self, stage: str | None, text: str) -> None:
        super().__init__(text)
        self.stage = stage


class IsolatedStages:
    """The stages of `names` in a child process that loads its own models; it is started when first asked.

    A child that has died, or has failed in a way that leaves it in doubt, is replaced at the next call. Use it
    as a context manager: the child ends with the block. Not for several threads at once.
    """

    def __init__(self, names: tuple[str, ...], config: RunConfig) -> None:
        self.config = config
        self._names = names
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """End the child, so that the next call gets a fresh one."""
        if self._child is not None:
            self._reap()

    def __call__(self, shard: Shard) -> Shard:
        """Return the shard after the stages.

        Raises:
            ChildDiedError: The child ended.
            ChildOutOfMemoryError: It had no memory left.
            BrokenDeviceError: Its accelerator failed.
            TransientError: A stage raised what is no image's fault: an error of files, of the machine, of its own.
            PseudorisError: What a stage raised as such.
        """
        child = self._running_child()
        stage: str | None = None
        try:
            _send(child, shard)
            while True:
                word, value = _receive(child)
                if word != "begun":
                    return self._taken(word, value, stage)
                stage = value
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            raise ChildDiedError(stage, self._reap()) from None

    def _taken(self, word: str, value: Any, stage: str | None) -> Shard:
        if word == "done":
            done: Shard = value
            return done
        self._reap()
        if word == "memory":
            raise ChildOutOfMemoryError(stage, value)
        if word == "device":
            raise BrokenDeviceError(value)
        if word == "raised":
            raise TransientError(f"in a process of its own the {stage or 'loading'} stage raised {value}")
        error: BaseException = value
        raise error

    def _running_child(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            self._child = start_child("workers.isolation_child", ",".join(self._names), self.config.model_dump_json())
        return self._child

    def _reap(self) -> int:
        """End and reap the child; return its exit status, a signal as a negative number."""
        if self._child is None:
            return 0
        child, self._child = self._child, None
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                # What could not be sent to a dead child stays in the buffer, and closing tries again.
                with suppress(BrokenPipeError):
                    stream.close()
        try:
            return child.wait(timeout=_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            return child.wait()


def _send(child: subprocess.Popen[bytes], shard: Shard) -> None:
    stream = cast("IO[bytes]", child.stdin)
    pickle.dump(shard, stream)
    stream.flush()


def _receive(child: subprocess.Popen[bytes]) -> tuple[str, Any]:
    word, value = pickle.load(cast("IO[bytes]", child.stdout))  # from our own child
    return word, value


def quarantine_killers(shard: Shard, child: IsolatedStages) -> Shard:
    """Return the shard with those images quarantined that end a process which works on them alone, twice.

    Each image goes through the child's stages by itself; results are thrown away. A child that somebody else
    ended (the kernel, for want of memory) blames no image.

    Args:
        shard: As it came to the stages; one that has ended processes before.
        child: The stages that it is to go through.

    Raises:
        TransientError: The child was ended from outside again and again.
        ChildOutOfMemoryError, BrokenDeviceError, PseudorisError: As `IsolatedStages`.
    """
    images = []
    for image in shard.images:
        alone = image if image.failure else tried_alone(shard, image, child)
        is_killer = alone.failure is not None and alone.failure.reason == KILLED
        images.append(alone if is_killer else image)
    return shard.with_images(tuple(images))


def tried_alone(shard: Shard, image: ShardImage, child: IsolatedStages) -> ShardImage:
    """Return the image as the child's stages leave it; quarantined where two children have died of it.

    Raises as `quarantine_killers` does.
    """
    ends_from_outside, has_died = 0, False
    while True:
        try:
            return child(shard.with_images((image,))).images[0]
        except (BrokenDeviceError, ChildOutOfMemoryError) as error:
            # Not its fault, as far as anybody can tell; whoever looks for the cause wants to know where it struck.
            logger.warning("alone with image %s: %s", image.key, error)
            raise
        except ChildDiedError as death:
            logger.warning("alone with image %s: %s", image.key, death)
            if death.stage is None:
                raise TransientError(
                    f"a process that loads the models ends with status {death.status}; its log says why"
                ) from death
            if death.is_from_outside:
                ends_from_outside += 1
                if ends_from_outside == _MAX_ENDS_FROM_OUTSIDE:
                    raise TransientError(
                        f"the {death.stage} stage was ended from outside {ends_from_outside} times while it worked on "
                        f"image {image.key}: the machine may be short of memory; give the actors more of it"
                    ) from death
            elif has_died:
                message = f"the {death.stage} stage's process died of this image alone, twice; the log has the signals"
                return image.quarantined(Failure(death.stage, KILLED, message))
            else:
                has_died = True
