"""The child process that measures the identity of this machine; it does not import Ray.

`python -m pseudoris.pipeline.local_identity_main <RunConfig as JSON>` writes a pickled `Identity`, or a PseudorisError;
then a pickle of the kind of device, which on a CPU the identity lacks: torch, which knows it, takes seconds to load.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from contextlib import suppress

from pseudoris.pipeline.identity import measure_identity
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.errors import PseudorisError
from pseudoris.schemas.run_records import Identity
from pseudoris.workers.device_kind import device_kind
from pseudoris.workers.faults.child_process import reserve_stdout
from pseudoris.workers.images.pillow_formats import import_plugins


def main() -> None:
    """Write the answers."""
    _, answers = reserve_stdout()
    config = RunConfig.model_validate_json(sys.argv[1])
    # The parent has closed the pipe if it could not use the first answer.
    with suppress(BrokenPipeError), answers:
        for answer in _answers(config):
            pickle.dump(answer, answers)
            answers.flush()


def _answers(config: RunConfig) -> Iterator[Identity | PseudorisError | str]:
    try:
        import_plugins(config.images.decoder_plugins)
        if config.compute.device == "cpu":
            yield measure_identity(config, kind_of_device=lambda compute: "")
            yield device_kind(config.compute)
        else:
            # What a missing GPU and missing weights lack is told in one message.
            identity = measure_identity(config)
            yield identity
            yield identity.device_kind
    except PseudorisError as error:
        yield error


if __name__ == "__main__":
    main()
