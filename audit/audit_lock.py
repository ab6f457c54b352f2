"""One writer an audit: `serve.lock`, locked while a server lives or a file is added, and `serve.json`: who has it.

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
def writing_alone(audit: Path, address: str | None = None) -> Iterator[None]:
    """Hold the audit for the block.

    Args:
        audit: Its folder.
        address: Where this server answers, without its token: the next one says it. None if it is no server.

    Raises:
        ConfigError: Another process has the audit, or its folder cannot be written.
    """
    lock = FileLock(audit / LOCK_NAME)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        remedy = "Stop it, and run this command again"
        if address is not None:
            remedy = "Open the address that it printed, or stop it first. Several raters can use one server"
        raise ConfigError(f"{audit} is in use by {_holder(audit)}. {remedy}") from None
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
        at = f", at {found['address']}" if found["address"] else ""
        return printable(f"process {found['pid']} on {found['host']}{at}")
    except (OSError, ValueError, KeyError, TypeError):
        # It has the lock, and has not written yet.
        return "another process"
