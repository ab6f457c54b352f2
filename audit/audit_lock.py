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
        raise ConfigError(f"{audit} is in use by {_holder(audit)}") from None
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
    """Return who has the audit, and what to do."""
    try:
        found = json.loads((audit / HOLDER_NAME).read_text())
        holder, address = printable(f"process {found['pid']} on {found['host']}"), found["address"]
    except (OSError, ValueError, KeyError, TypeError):
        # It has the lock, and has not written yet.
        holder, address = "another process", None
    if address is None:
        return f"{holder}. Wait until it has ended, or stop it, and run this command again"
    remedy = "Stop it first, or open the address that it printed: several raters can use it"
    return f"{holder}, at {printable(address)}. {remedy}"
