"""The child process that measures the identity of this machine; it does not import Ray.

`python -m pseudoris.pipeline.local_identity_main <RunConfig as JSON>` writes a pickled `Identity`, or a PseudorisError.
"""

from __future__ import annotations

import pickle
import sys

from pseudoris.pipeline.identity import measure_identity
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.errors import PseudorisError
from pseudoris.schemas.run_records import Identity
from pseudoris.workers.faults.child_process import reserve_stdout
from pseudoris.workers.images.pillow_formats import import_plugins


def main() -> None:
    """Write the answer."""
    _, answers = reserve_stdout()
    config = RunConfig.model_validate_json(sys.argv[1])
    found: Identity | PseudorisError
    try:
        import_plugins(config.images.decoder_plugins)
        found = measure_identity(config)
    except PseudorisError as error:
        found = error
    with answers:
        pickle.dump(found, answers)


if __name__ == "__main__":
    main()
