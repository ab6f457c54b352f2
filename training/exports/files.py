"""A large file that appears under its name whole or not at all, on a disk or in a bucket."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from store.local_files import TEMPORARY_PREFIX
from store.location import RunLocation
from store.storage_errors import storage_errors


@contextmanager
def new_file(destination: RunLocation, path: str) -> Iterator[Path]:
    """Give a path on this disk to write to; the file stands at `path` of the destination once the block ends.

    Where the block raises, nothing appears. On a disk the file is written beside its final name; for a bucket it is
    written to this machine's temporary folder and sent whole, from memory: files of an export are bounded in size.

    Raises:
        ConfigError: It cannot be written there.
        TransientError: Storage failed.
    """
    uri = destination.uri(path)
    if "://" in destination.root:
        with tempfile.TemporaryDirectory(prefix="pseudoris-export-") as folder:
            local = Path(folder) / "file"
            with storage_errors("write", str(local)):
                yield local
            destination.replace(path, local.read_bytes())
        return
    final = Path(destination.root) / path
    with storage_errors("write", uri):
        final.parent.mkdir(parents=True, exist_ok=True)
        local = final.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(8)}")
        try:
            yield local
            with local.open("rb+") as file:
                os.fsync(file.fileno())
            local.replace(final)
        finally:
            local.unlink(missing_ok=True)
