"""A large file that appears under its name whole or not at all, on a disk or in a bucket."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from store.location import RunLocation
from store.storage_errors import storage_errors


@contextmanager
def new_file(destination: RunLocation, path: str) -> Iterator[Path]:
    """Give a path on this disk to write to; the file stands at `path` of the destination once the block ends.

    Where the block raises, nothing appears. On a disk the file is written beside its final name; for a bucket it is
    written to this machine's temporary folder (TMPDIR), which must have room for it, and sent in parts: memory holds
    a few of them, whatever the file's size.

    Raises:
        ConfigError: It cannot be written there.
        TransientError: Storage failed.
    """
    with storage_errors("write", destination.uri(path)):
        beside = destination.temporary_path(path)
    if beside is None:
        with tempfile.TemporaryDirectory(prefix="pseudoris-export-") as folder:
            local = Path(folder) / "file"
            with storage_errors("write", str(local)):
                yield local
            destination.replace_by(path, local)
        return
    try:
        with storage_errors("write", destination.uri(path)):
            yield beside
        destination.replace_by(path, beside)
    finally:
        beside.unlink(missing_ok=True)
