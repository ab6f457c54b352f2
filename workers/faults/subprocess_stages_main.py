"""The child process that may die: it loads stages and runs pickled shards through them, one after the other.

`python -m pseudoris.workers.faults.subprocess_stages_main propose,caption <RunConfig as JSON>`. Requests are pickled
shards; answers are pickled pairs: ("begun", stage) before each stage, then one of ("done", shard), ("memory", text),
("device", text), ("raised", text) and ("error", a PseudorisError). The process ends when its standard input ends.
"""

from __future__ import annotations

import logging
import pickle
import resource
import sys
from collections.abc import Sequence
from typing import Any, BinaryIO

from pseudoris.images.child_process import reserve_stdout
from pseudoris.images.pixels import import_plugins
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.errors import PseudorisError
from pseudoris.schemas.shard import Shard
from pseudoris.schemas.untrusted import mask_logs
from pseudoris.schemas.uris import RECORDED
from pseudoris.workers.faults.quarantine import is_broken_device, is_out_of_memory
from pseudoris.workers.stages import Stage, StageKind, stages_named

logger = logging.getLogger(__name__)


def main() -> None:
    """Answer requests until the standard input ends, or until this process is in an uncertain state."""
    mask_logs()
    requests, answers = reserve_stdout()
    # No core files: this process is expected to die, and each would take gigabytes.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    kinds = stages_named(tuple(sys.argv[1].split(",")))
    config = RunConfig.model_validate_json(sys.argv[2], context=RECORDED)
    stages: list[Stage] = []
    while True:
        try:
            shard = pickle.load(requests)  # from our own parent
        except EOFError:
            return
        # Stages are loaded with the first shard, so that an error in loading is answered like any other.
        word, value = _answer(shard, kinds, stages, config=config, answers=answers)
        _send(answers, word, value)
        if word != "done":
            return


def _answer(
    shard: Shard, kinds: Sequence[StageKind], stages: list[Stage], *, config: RunConfig, answers: BinaryIO
) -> tuple[str, Any]:
    try:
        if not stages:
            import_plugins(config.images.decoder_plugins)
            stages += [kind.build(config) for kind in kinds]
        for kind, stage in zip(kinds, stages, strict=True):
            _send(answers, "begun", kind.name)
            shard = stage(shard)
    except PseudorisError as error:
        return "error", error
    except Exception as error:
        # Answer instead of dying: an error that passed the image boundary, or a bug outside of it, is not an image's
        # fault.
        logger.exception("the stages raised")
        if is_out_of_memory(error):
            return "memory", str(error)
        return ("device" if is_broken_device(error) else "raised"), f"{type(error).__name__}: {error}"
    return "done", shard


def _send(answers: BinaryIO, word: str, value: Any) -> None:
    pickle.dump((word, value), answers)
    answers.flush()


if __name__ == "__main__":
    main()
