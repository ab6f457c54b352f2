"""The run's S3 endpoint for clients that no setting reaches: weights and priors that are opened by their url alone."""

from __future__ import annotations

import os
from typing import Final

from schemas.config import RunConfig

# What botocore reads where it is given no endpoint, and what says that the value is a run's and not the machine's.
_VARIABLE: Final = "AWS_ENDPOINT_URL"
_MARK: Final = "PSEUDORIS_ANNOUNCED_ENDPOINT"


def announce_endpoint(config: RunConfig) -> None:
    """Let every S3 client of this process that is not told another one ask at `source.endpoint_url`.

    An endpoint that the environment names already stays: whoever set it there knows this machine. That of
    an earlier run in this process goes.
    """
    found, mark = os.environ.get(_VARIABLE), os.environ.get(_MARK)
    if found is not None and found != mark:
        return
    for name in (_VARIABLE, _MARK):
        if config.source.endpoint_url is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = config.source.endpoint_url
