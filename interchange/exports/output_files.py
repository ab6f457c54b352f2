"""Writes and reads an export's files: one large, many small ones, or JSON arrays. Called by `export_job` and formats.

A file appears under its final name whole or not at all. Memory is bounded, whatever the number and size of the files.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import IO, Any, BinaryIO, Final, Self

from pseudoris.files.location import RunLocation
from pseudoris.files.storage import storage_errors
from pseudoris.interchange.exports.record import broken
from pseudoris.primitives.errors import TransientError
from pseudoris.primitives.threads import map_in_threads
from pseudoris.primitives.untrusted import parse_json, printable_json

_WRITERS: Final = 8
# This many threads read, because a small file in a bucket is mostly waiting. Memory may hold twice as many files.
_READERS: Final = 8


@contextmanager
def new_file(destination: RunLocation, path: str) -> Iterator[Path]:
    """Give a path on this disk to write to; the file is at `path` of the destination once the block ends.

    If the block raises, nothing appears. On a disk the file is written next to its final name; for a bucket it is
    written to this machine's temporary folder (TMPDIR), which must have room for it, and sent in parts.
    ConfigError if it cannot be written there.
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


# At most this many files, with at most this many bytes, wait in memory. A single file may have more bytes.
_MAX_PENDING: Final = 32
_MAX_PENDING_BYTES: Final = 128 * 2**20
_MODULUS: Final = 2**128
# Matches the number in a folder's name, as in `sa_000017` or `17`.
_NUMBERED: Final = re.compile(r"(?<=_)\d+(?![^/])|(?<![^/])\d+(?![^/])")


class ManyFiles:
    """Writes files in the background; the end of the block waits for all of them."""

    def __init__(self, destination: RunLocation) -> None:
        self._destination = destination
        self._pool = ThreadPoolExecutor(_WRITERS, thread_name_prefix="export")
        self._pending: deque[tuple[Future[None], int]] = deque()
        self._pending_bytes = 0
        self._sums: dict[str, int] = {}
        # Holds the written paths, with `*` for a file's name and a folder's number, so that they are few.
        self.patterns: set[str] = set()
        self.num_files = 0
        self.size_bytes = 0

    def write(self, folder: str, name: str, data: bytes) -> None:
        """Schedule the write of a file, complete or not at all; raises the error of an earlier file."""
        while self._pending and (
            len(self._pending) >= _MAX_PENDING or self._pending_bytes + len(data) > _MAX_PENDING_BYTES
        ):
            self._finish_oldest()
        future = self._pool.submit(self._destination.replace, f"{folder}/{name}" if folder else name, data)
        self._pending.append((future, len(data)))
        self._pending_bytes += len(data)
        self._sums[folder] = (self._sums.get(folder, 0) + _digest(name, len(data))) % _MODULUS
        self.patterns.add(f"{_NUMBERED.sub('*', folder)}/*{PurePosixPath(name).suffix}".removeprefix("/"))
        self.num_files += 1
        self.size_bytes += len(data)

    def check(self) -> None:
        """List the folders: every file is there with its size, and no other. Call it after the block.

        Names are combined by their digests, without order, so none is held in memory.
        """
        for folder, due in self._sums.items():
            found = sum(_digest(file.name, file.size_bytes) for file in self._destination.list(folder)) % _MODULUS
            if found != due:
                raise TransientError(
                    f"{self._destination.uri(folder)} does not have exactly the files that were written. Run the "
                    "same command again."
                )

    def _finish_oldest(self) -> None:
        future, size_bytes = self._pending.popleft()
        self._pending_bytes -= size_bytes
        future.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Wait for the files that are on their way; after an error of the block no other is begun."""
        try:
            if kind is None:
                while self._pending:
                    self._finish_oldest()
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)


def _digest(name: str, size_bytes: int) -> int:
    return int.from_bytes(sha256(f"{size_bytes}/{name}".encode()).digest()[:16], "big")


def read_ahead(destination: RunLocation, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Yield path and bytes of each file, in the order of the paths."""

    def read(path: str) -> tuple[str, bytes]:
        try:
            return path, destination.read_bytes(path)
        except FileNotFoundError:
            raise broken(destination.uri(path), "it is missing") from None

    yield from map_in_threads(read, paths, _READERS)


_OPENS: Final = re.compile(rb'^(?:(?:\{|\], )("(?:[^"\\]|\\.)*"): )?\[$')
_CLOSES: Final = (b"]}", b"]")
IMAGES_ARRAY: Final = "images"


class JsonArray:
    """One array of the object."""

    def __init__(self, file: IO[bytes], separator: bytes = b",\n") -> None:
        self._file = file
        self._separator = separator
        self.num_elements = 0

    def append(self, element: Any) -> None:
        """Add an element: all values that `json` writes by itself; numpy's numbers raise TypeError."""
        self._file.write(self._separator if self.num_elements else b"")
        self._file.write(printable_json(element, separators=(",", ":")).encode())
        self.num_elements += 1


@contextmanager
def json_arrays(path: Path, names: Sequence[str]) -> Iterator[dict[str, JsonArray]]:
    """Write an object of arrays to `path`; all of them may grow at once.

    Beside `path` each array has a file without a name while the block lasts, so the disk holds the whole twice for a
    moment, and a killed process leaves none of it.
    """
    with ExitStack() as stack:
        files = {name: stack.enter_context(TemporaryFile(dir=path.parent)) for name in names}
        yield {name: JsonArray(file) for name, file in files.items()}
        with path.open("wb") as whole:
            for number, (name, file) in enumerate(files.items()):
                whole.write(f"{'], ' if number else '{'}{json.dumps(name)}: [\n".encode())
                file.seek(0)
                shutil.copyfileobj(file, whole, 2**20)
                whole.write(b"\n")
            whole.write(b"]}\n")


def iter_json_arrays(file: BinaryIO, name: str) -> Iterator[tuple[str, Any]]:
    """Yield (array's name, element) of a file of `json_arrays`, in its order; the name is "" if the file is one array.

    `name` is the file's, for errors.
    """
    array: str | None = None
    for line in map(bytes.rstrip, file):
        opens = _OPENS.match(line)
        if opens:
            array = "" if opens[1] is None else _element(opens[1], name)
        elif line in _CLOSES:
            return
        elif array is None:
            raise TransientError(f"{name} does not begin as a list. Run the same command again.")
        elif line:
            yield array, _element(line, name)
    raise TransientError(f"{name} ends before its last bracket. Run the same command again.")


def read_array(destination: RunLocation, path: str, name: str) -> Iterator[Any]:
    """Yield the elements of one array of a file of `json_arrays`.

    The images come first, and reading ends behind them. Any other array is read to the file's end, so that a file that
    was cut short is found.
    """
    with destination.open_input(path) as file:
        for array, element in iter_json_arrays(file, destination.uri(path)):
            if array == name:
                yield element
            elif name == IMAGES_ARRAY:
                return


def read_records(destination: RunLocation, path: str) -> Iterator[Any]:
    """Yield the elements of a file of one array, or of one of lines, whose name ends in `.jsonl`."""
    uri = destination.uri(path)
    with destination.open_input(path) as file:
        if not path.endswith(".jsonl"):
            yield from (element for _, element in iter_json_arrays(file, uri))
            return
        for line in file:
            if not line.endswith(b"\n"):
                raise TransientError(f"{uri} ends in the middle of a line. Run the same command again.")
            yield _element(line, uri)


class ByImage:
    """Records that stand in the order of their images, given out image by image; memory holds one image's.

    Attributes:
        where: Names their file in errors.
    """

    def __init__(self, records: Iterator[Any], where: str) -> None:
        self._records = records
        self.where = where
        self._next = next(records, None)

    def take(self, image_id: int) -> list[Any]:
        """Return the records of an image; it may have none."""
        found = []
        while self._next is not None and self._next["image_id"] == image_id:
            found.append(self._next)
            self._next = next(self._records, None)
        return found

    def check_end(self) -> None:
        """Raise where records of no image, or of an earlier one, are left."""
        if self._next is not None:
            raise broken(
                self.where, f"a record of image {self._next['image_id']} belongs to no image, or is out of order"
            )


def _element(line: bytes, name: str) -> Any:
    try:
        return parse_json(line.removesuffix(b","))
    except ValueError as error:
        raise TransientError(f"{name} is not readable JSON ({error}). Run the same command again.") from error
