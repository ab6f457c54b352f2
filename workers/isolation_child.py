"""The process that may die at work: it loads stages and takes pickled shards through them, one after the other.

`python -m workers.isolation_child propose,caption <RunConfig as JSON>`. Requests are pickled shards; answers are
pickled pairs: ("begun", stage) before each stage, then one of ("done", shard), ("memory", text), ("device", text),
("raised", text) and ("error", a PseudorisError). It ends with its standard input.
"""

from __future__ import annotations

import logging
import pickle
import resource
import sys
from collections.abc import Sequence
from typing import Any, BinaryIO

from schemas.config import RunConfig
from schemas.errors import PseudorisError
from schemas.shard import Shard
from workers.boundary import is_broken_device, is_out_of_memory
from workers.children import take_standard_streams
from workers.images.formats import import_plugins
from workers.stages import Stage, StageKind, kinds_of

logger = logging.getLogger(__name__)


def main() -> None:
    """Answer requests until the standard input ends, or until this process is in doubt."""
    requests, answers = take_standard_streams()
    # Its death is expected: no core file of gigabytes each time.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    kinds = kinds_of(tuple(sys.argv[1].split(",")))
    config = RunConfig.model_validate_json(sys.argv[2])
    stages: list[Stage] = []
    while True:
        try:
            shard = pickle.load(requests)  # from our own parent
        except EOFError:
            return
        # Loaded with the first shard: what goes wrong then is answered like everything else.
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
        # Told, and no death: what the boundary has let through is no image's fault, nor is a bug outside of it.
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
