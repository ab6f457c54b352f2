"""Writes an export's files, one large, many small ones or JSON arrays, and compares what is stored with them.

Called by `export_job`, `coco_export`, `refer`. A file appears under its final name whole or not at all. Memory is
bounded, whatever the number and size of the files.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from hashlib import file_digest, sha256
from heapq import heappush, heappushpop
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, Any, Final, Self

from pseudoris.files.location import RunLocation, local_path
from pseudoris.files.storage import storage_errors
from pseudoris.interchange.exports.record import broken
from pseudoris.primitives.errors import TransientError
from pseudoris.primitives.threads import map_in_threads
from pseudoris.primitives.untrusted import parse_json, printable_json
from pseudoris.schemas.ids import sha256_hex

_WRITERS: Final = 8
# This many threads read, because a small file in a bucket is mostly waiting. Memory may hold twice as many files.
_READERS: Final = 8
# Up to this many small files are all read again. Of more only a sample is, because a bucket bills each request.
MAX_READ: Final = 100_000
SAMPLE: Final = 1_000


@contextmanager
def new_file(destination: RunLocation, path: str) -> Iterator[Path]:
    """Give a path on this disk to write to; the file is at `path` of the destination once the block ends.

    If the block raises, nothing appears. On a disk the file is written next to its final name; for a bucket it is
    written to this machine's temporary folder (TMPDIR), which must have room for it, and sent in parts.
    ConfigError if it cannot be written there.
    """
    with storage_errors("write", destination.uri(path)):
        beside = destination.temporary_path(path)
    with ExitStack() as stack:
        if beside is None:
            local = Path(stack.enter_context(TemporaryDirectory(prefix="pseudoris-export-"))) / "file"
        else:
            local = beside
            stack.callback(beside.unlink, missing_ok=True)
        with storage_errors("write", str(local) if beside is None else destination.uri(path)):
            yield local
        destination.replace_by(path, local)


def check_file(destination: RunLocation, path: str, due: str) -> None:
    """Raise a TransientError unless the file is there and has the sha256 `due`; it is read once, in pieces."""
    try:
        with storage_errors("read", destination.uri(path)), destination.open_input(path) as file:
            found = file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # a BinaryIO serves
    except FileNotFoundError:
        raise broken(destination.uri(path), "it is missing") from None
    if found != due:
        raise broken(destination.uri(path), "its bytes are not those that were written")


# At most this many files, with at most this many bytes, wait in memory. A single file may have more bytes.
_MAX_PENDING: Final = 32
_MAX_PENDING_BYTES: Final = 128 * 2**20
_MODULUS: Final = 2**128
# Matches the number in a folder's name, as in `sa_000017` or `17`.
_NUMBERED: Final = re.compile(r"(?<=_)\d+(?![^/])|(?<![^/])\d+(?![^/])")


class ManyFiles:
    """Writes files in the background; the end of the block waits for all of them.

    Their digests are added up, without order, so that memory holds the names of a sample alone.
    """

    def __init__(self, destination: RunLocation) -> None:
        self._destination = destination
        self._pool = ThreadPoolExecutor(_WRITERS, thread_name_prefix="export")
        self._pending: deque[tuple[Future[str], str, int]] = deque()
        self._pending_bytes = 0
        # The sum of the digests of paths and sizes, and that of paths, sizes and contents.
        self._sums = [0, 0]
        # The files with the smallest digests, each with its digest's negative: equal exports have equal samples.
        self._sample: list[tuple[int, str, str]] = []
        # Holds the written paths, with `*` for a file's name and a folder's number, so that they are few.
        self.patterns: set[str] = set()
        self.num_files = 0
        self.size_bytes = 0
        self.by_folder: Counter[str] = Counter()

    def write(self, folder: str, name: str, data: bytes) -> None:
        """Schedule the write of a file, complete or not at all; raises the error of an earlier file."""
        while self._pending and (
            len(self._pending) >= _MAX_PENDING or self._pending_bytes + len(data) > _MAX_PENDING_BYTES
        ):
            self._finish_oldest()
        path = f"{folder}/{name}"
        self._pending.append((self._pool.submit(self._put, path, data), path, len(data)))
        self._pending_bytes += len(data)
        self.patterns.add(f"{_NUMBERED.sub('*', folder)}/*{PurePosixPath(name).suffix}".removeprefix("/"))
        self.num_files += 1
        self.size_bytes += len(data)
        self.by_folder[folder] += 1

    def finish(self) -> None:
        """Wait for the files that are on their way; raises the error of one of them."""
        while self._pending:
            self._finish_oldest()

    def check(self, stored: Iterable[tuple[str, int]]) -> str:
        """Compare the paths, sizes and bytes of what is `stored`; return what was compared. Call it after `finish`."""
        is_read = self.num_files <= MAX_READ
        # A disk is read by this thread: for small files others would only wait for one another.
        is_bucket = local_path(self._destination.root) is None
        in_threads = partial(map_in_threads, num_threads=_READERS) if is_bucket else map

        def digest(file: tuple[str, int]) -> int:
            return _digest(*file, self._sha256(file[0]) if is_read else "")

        found = sum(in_threads(digest, stored) if is_read else map(digest, stored)) % _MODULUS
        sample = {} if is_read else {path: due for _, path, due in self._sample}
        if found != self._sums[is_read] or list(in_threads(self._sha256, sample)) != [*sample.values()]:
            raise TransientError(
                f"{self._destination.root} does not have exactly the files that were written. Run the same command "
                "again."
            )
        if is_read:
            return f"the bytes of {self.num_files:,} small files"
        return f"the names and sizes of {self.num_files:,} small files, and the bytes of a sample of {len(sample):,}"

    def _put(self, path: str, data: bytes) -> str:
        self._destination.replace(path, data)
        return sha256_hex(data)

    def _sha256(self, path: str) -> str:
        data = self._destination.read_if_there(path)
        return "" if data is None else sha256_hex(data)

    def _finish_oldest(self) -> None:
        future, path, size_bytes = self._pending.popleft()
        self._pending_bytes -= size_bytes
        digests = [_digest(path, size_bytes, content) for content in ("", future.result())]
        self._sums = [(held + digest) % _MODULUS for held, digest in zip(self._sums, digests, strict=True)]
        add = heappush if len(self._sample) < SAMPLE else heappushpop
        add(self._sample, (-digests[1], path, future.result()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Wait for the files that are on their way; after an error of the block no other is begun."""
        try:
            if kind is None:
                self.finish()
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)


def _digest(path: str, size_bytes: int, content: str) -> int:
    return int.from_bytes(sha256(f"{content}/{size_bytes}/{path}".encode()).digest()[:16], "big")


IMAGES_ARRAY: Final = "images"
_BUFFER_BYTES: Final = 2**20


class JsonArray:
    """One array of the object."""

    def __init__(self, file: IO[bytes], separator: bytes = b",\n") -> None:
        self._file = file
        self._separator = separator
        self.num_elements = 0

    def append(self, element: Any) -> Any:
        """Add an element, and return it decoded: all values that `json` writes; numpy's numbers raise TypeError."""
        data = printable_json(element, separators=(",", ":")).encode()
        self._file.write(self._separator + data if self.num_elements else data)
        self.num_elements += 1
        if (found := parse_json(data)) != element:
            raise broken(f"record {self.num_elements}", "its JSON decodes to other values")
        return found


@contextmanager
def json_arrays(path: Path, names: Sequence[str]) -> Iterator[dict[str, JsonArray]]:
    """Write an object of arrays to `path`; all of them may grow at once.

    Beside `path` each array has a file without a name while the block lasts, so the disk holds the whole twice for a
    moment, and a killed process leaves none of it.
    """
    with ExitStack() as stack:
        # Large buffers, because each write to the disk lets the threads of `ManyFiles` take the interpreter.
        files = {name: stack.enter_context(TemporaryFile(buffering=_BUFFER_BYTES, dir=path.parent)) for name in names}
        yield {name: JsonArray(file) for name, file in files.items()}
        with path.open("wb") as whole:
            for number, (name, file) in enumerate(files.items()):
                whole.write(f"{'], ' if number else '{'}{json.dumps(name)}: [\n".encode())
                file.seek(0)
                shutil.copyfileobj(file, whole, _BUFFER_BYTES)
                whole.write(b"\n")
            whole.write(b"]}\n")


def add_to_tar(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file to a tar that is written; equal files give equal bytes."""
    # A new entry has no time, no owner and mode 644.
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))
    # The list is emptied, because otherwise the tar keeps all written entries in memory.
    tar.members = []  # type: ignore[attr-defined]
