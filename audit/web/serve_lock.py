"""One server an audit: `serve.lock`, locked as long as the server lives, and `serve.json`, which says who has it.

The system gives the lock back when the process ends, however it ends: nothing goes stale.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.printable import printable

LOCK_NAME: Final = "serve.lock"
HOLDER_NAME: Final = "serve.json"


@contextmanager
def serving_alone(audit: Path, address: str) -> Iterator[None]:
    """Hold the audit for the block.

    Args:
        audit: Its folder.
        address: Where this server answers, without its token: the next one says it.

    Raises:
        ConfigError: Another server has the audit, or its folder cannot be written.
    """
    lock = FileLock(audit / LOCK_NAME)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(
            f"{audit} is being served by {_holder(audit)}. Open the address that it printed, or stop it first. Several "
            "raters can use one server"
        ) from None
    except (OSError, NotImplementedError) as error:
        raise ConfigError(f"{audit / LOCK_NAME} cannot be locked ({error}). Copy the audit to a local disk") from error
    holder = audit / HOLDER_NAME
    try:
        holder.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "address": address}))
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _holder(audit: Path) -> str:
    try:
        found = json.loads((audit / HOLDER_NAME).read_text())
        return printable(f"process {found['pid']} on {found['host']}, at {found['address']}")
    except (OSError, ValueError, KeyError, TypeError):
        # It has the lock, and has not written yet.
        return "another process"
