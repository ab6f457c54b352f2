"""The child process that may die: loads stages and runs pickled shards through them. Started by `subprocess_stages.py`.

`python -m pseudoris.workers.faults.subprocess_stages_main propose,caption <RunConfig as JSON>`. Requests are pickled
shards; answers are pickled: the name of each stage when it begins, then the shard, or the exception that the parent
raises. The process must end after an exception, because its state is uncertain, and when its standard input ends.
"""

from __future__ import annotations

import logging
import pickle
import resource
import sys
from collections.abc import Sequence
from typing import BinaryIO

from pseudoris.images.child_process import reserve_stdout
from pseudoris.images.pixels import import_plugins
from pseudoris.primitives.errors import BrokenDeviceError, PseudorisError, TransientError
from pseudoris.primitives.untrusted import mask_logs
from pseudoris.primitives.uris import RECORDED
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.shard import Shard
from pseudoris.workers.faults.quarantine import is_broken_device, is_out_of_memory
from pseudoris.workers.faults.subprocess_stages import ChildOutOfMemoryError, send
from pseudoris.workers.stages import Stage, StageKind, stages_named

logger = logging.getLogger(__name__)


def main() -> None:
    """Answer requests until the standard input ends, or until this process is in an uncertain state."""
    mask_logs()
    requests, answers = reserve_stdout()
    # Core files are switched off: this process may die often, and each file would take gigabytes.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    kinds = stages_named(tuple(sys.argv[1].split(",")))
    config = RunConfig.model_validate_json(sys.argv[2], context=RECORDED)
    stages: list[Stage] = []
    while True:
        try:
            shard = pickle.load(requests)  # from our own parent
        except EOFError:
            return
        # Stages are loaded with the first shard, so that an error of loading is returned like any other error.
        answer = _answer(shard, kinds, stages, config=config, answers=answers)
        send(answers, answer)
        if isinstance(answer, Exception):
            return


def _answer(
    shard: Shard, kinds: Sequence[StageKind], stages: list[Stage], *, config: RunConfig, answers: BinaryIO
) -> Shard | Exception:
    name = "loading"
    try:
        if not stages:
            import_plugins(config.images.decoder_plugins)
            stages += [kind.build(config) for kind in kinds]
        for name, stage in zip((kind.name for kind in kinds), stages, strict=True):
            send(answers, name)
            shard = stage(shard)
    except PseudorisError as error:
        return error
    except Exception as error:
        # Answer instead of dying: an error that passed the image boundary, or a bug outside of it, is not an image's
        # fault.
        logger.exception("the stages raised")
        if is_out_of_memory(error):
            return ChildOutOfMemoryError(str(error))
        told = f"{type(error).__name__}: {error}"
        if is_broken_device(error):
            return BrokenDeviceError(told)
        return TransientError(f"in a subprocess the {name} stage raised {told}")
    return shard


if __name__ == "__main__":
    main()
