"""The LMDB file of CRIS and ETRIS: records under "0" … "N-1", their keys under `__keys__`, N under `__len__`.

Values are pickles. ETRIS reads with `pyarrow.deserialize`, which left pyarrow before 13, and CRIS as published writes
pickles and reads with pyarrow: neither form can be written by a program of today, a pickle can be read by both after
one line of theirs is changed.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from schemas.errors import ConfigError, TransientError
from store.plain_pickle import load_plain

# Python 3.4 and later read it.
PICKLE_PROTOCOL: Final = 4
KEYS: Final = b"__keys__"
LENGTH: Final = b"__len__"
# Address space, not disk: the file grows as it is filled. The trainers' own writer takes as much.
_MAP_BYTES: Final = 2**41
# What one transaction holds in memory.
_COMMIT_BYTES: Final = 64 * 2**20


def require_lmdb() -> ModuleType:
    """Return the package.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import lmdb
    except ImportError:
        raise ConfigError("the format lmdb needs a package more: pip install -e '.[lmdb]'") from None
    module: ModuleType = lmdb
    return module


class RecordWriter:
    """Puts records under the keys "0", "1" and so on."""

    def __init__(self, environment: Any) -> None:
        self._environment = environment
        self._transaction = environment.begin(write=True)
        self._pending_bytes = 0
        self.num_records = 0

    def put(self, record: Mapping[str, Any]) -> None:
        """Add a record of plain values."""
        self._put(str(self.num_records).encode("ascii"), pickle.dumps(record, protocol=PICKLE_PROTOCOL))
        self.num_records += 1

    def finish(self) -> None:
        """Add keys and length.

        Memory holds all keys for a moment, some 60 bytes a record, as the trainers' loaders do.
        .
        """
        keys = [str(number).encode("ascii") for number in range(self.num_records)]
        self._put(KEYS, pickle.dumps(keys, protocol=PICKLE_PROTOCOL))
        self._put(LENGTH, pickle.dumps(self.num_records, protocol=PICKLE_PROTOCOL))
        self._transaction.commit()

    def _put(self, key: bytes, value: bytes) -> None:
        self._transaction.put(key, value)
        self._pending_bytes += len(value)
        if self._pending_bytes >= _COMMIT_BYTES:
            self._transaction.commit()
            self._transaction = self._environment.begin(write=True)
            self._pending_bytes = 0


@contextmanager
def writing_records(path: Path) -> Iterator[RecordWriter]:
    """Write a new LMDB file to `path` of this disk; after the block it holds keys and length too.

    Raises:
        ConfigError: The package is missing, or the disk does not take the file.
    """
    lmdb = require_lmdb()
    # One process writes, and syncs once, at the end: no lock file, and nothing to recover to before that.
    options = {"subdir": False, "map_size": _MAP_BYTES, "lock": False, "sync": False, "metasync": False}
    try:
        with lmdb.open(str(path), **options) as environment:
            writer = RecordWriter(environment)
            yield writer
            writer.finish()
            environment.sync(True)
    except lmdb.Error as error:
        raise ConfigError(
            f"cannot write an LMDB in {path.parent}: {error}; free space, or name another disk"
        ) from error


def iter_records(path: Path, name: str) -> Iterator[dict[str, Any]]:
    """Yield the records of a file of this disk in their order, opened as the trainers open it; `name` is for errors.

    Raises:
        TransientError: Keys, length and records do not fit each other, or a value is no pickle of plain values.
    """
    lmdb = require_lmdb()
    options = {"subdir": False, "readonly": True, "lock": False, "readahead": False, "map_size": _MAP_BYTES}
    with lmdb.open(str(path), **options) as environment, environment.begin() as transaction:
        length, keys = (_loads(transaction.get(key), name) for key in (LENGTH, KEYS))
        if type(length) is not int or keys != [str(number).encode("ascii") for number in range(length)]:
            raise TransientError(f"{name}: __len__ and __keys__ do not fit each other: run the same command again")
        if transaction.stat()["entries"] != length + 2:
            raise TransientError(f"{name}: __len__ is {length}, but it holds another number of records")
        for key in keys:
            yield _loads(transaction.get(key), name)


def _loads(value: bytes | None, name: str) -> Any:
    try:
        return load_plain(value or b"", name, with_bytes=True)
    except ConfigError as error:
        raise TransientError(f"{error}: run the same command again") from error
