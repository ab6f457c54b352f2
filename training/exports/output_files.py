"""Files of an export: written in parts, many at once, as JSON arrays, and compared with what came back."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO, Any, BinaryIO, Final, Self

from pseudoris.schemas.errors import TransientError
from pseudoris.schemas.run_lengths import summarise_rle
from pseudoris.schemas.shard import is_blank
from pseudoris.schemas.untrusted import parse_json, printable_json
from pseudoris.store.files.storage import storage_errors
from pseudoris.store.location import RunLocation
from pseudoris.store.threads import map_in_threads


class Fingerprint:
    """A digest that grows with every mask; equal ones mean equal masks, texts and order."""

    def __init__(self) -> None:
        self._digest = sha256()
        self.num_masks = 0
        self.num_texts = 0

    def add(self, name: str, size: Sequence[int], counts: str, texts: Sequence[str]) -> None:
        """Add a mask: its image's file, (height, width), canonical COCO encoding, and texts.

        Canonical is what pycocotools gives for the pixels, where the format holds pixels.
        """
        self._digest.update(json.dumps([name, *map(int, size), counts, list(texts)]).encode())
        self.num_masks += 1
        self.num_texts += len(texts)

    def check_equals(self, read: Fingerprint, where: str) -> None:
        """Raise a TransientError that names the place where something that was read back differs."""
        due, found = (self.num_masks, self.num_texts), (read.num_masks, read.num_texts)
        if due != found:
            raise TransientError(
                f"{where} reads back as {found[0]:,} masks with {found[1]:,} expressions, but {due[0]:,} with "
                f"{due[1]:,} were written. Run the same command again."
            )
        if self._digest.digest() != read._digest.digest():
            raise TransientError(f"{where} reads back differently. Run the same command again.")


def check_mask(annotation: Mapping[str, Any], size: tuple[int, int], where: str) -> str:
    """Return the `counts` of a COCO-like annotation once its runs fill the image and agree with its box and area.

    It has `segmentation` (a bare compressed RLE), `bbox` [x, y, width, height] and `area`; `size` is (height, width) of
    its image, and `where` names it in a TransientError.
    """
    segmentation = annotation["segmentation"]
    if not isinstance(segmentation, dict) or not isinstance(segmentation.get("counts"), str):
        raise broken(where, "its mask is not a compressed run-length encoding")
    if tuple(segmentation["size"]) != size:
        raise broken(where, f"its mask has the size {segmentation['size']}, its image {list(size)} (height, width)")
    counts: str = segmentation["counts"]
    try:
        found = summarise_rle(*size, counts)
    except ValueError as error:
        raise broken(where, f"its mask does not decode ({error})") from error
    x0, y0, x1, y1 = found.box_xyxy_px
    if not found.area_px:
        raise broken(where, "its mask has no pixel")
    if list(annotation["bbox"]) != [x0, y0, x1 - x0, y1 - y0] or annotation["area"] != found.area_px:
        raise broken(where, "its box or area differs from its mask's")
    return counts


def check_texts(texts: Sequence[Any], where: str) -> list[str]:
    """Return the expressions after a check that each is a text and not empty."""
    if not all(isinstance(text, str) and not is_blank(text) for text in texts):
        raise broken(where, "an expression is empty or not a text")
    return list(texts)


class RisingIds:
    """Ids of which each is a whole number above the one before: so they are unique, and memory holds one of them."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._last = 0

    def check(self, number: Any) -> int:
        """Return the id, an int above the last one."""
        if type(number) is not int or number <= self._last:
            raise broken(self._where, f"id {number!r} follows {self._last}: ids must be rising whole numbers")
        self._last = number
        return number


def broken(where: str, what: str) -> TransientError:
    """Return the error of something that does not read back as it was written."""
    return TransientError(f"{where} reads back differently: {what}. Run the same command again.")


_WRITERS: Final = 8
# In a bucket a small file is nearly all waiting; twice as many are held in memory.
_READERS: Final = 8


@contextmanager
def new_file(destination: RunLocation, path: str) -> Iterator[Path]:
    """Give a path on this disk to write to; the file is at `path` of the destination once the block ends.

    Where the block raises, nothing appears. On a disk the file is written next to its final name; for a bucket it is
    written to this machine's temporary folder (TMPDIR), which must have room for it, and sent in parts: memory holds a
    few of them, for files of any size.

    Raises:
        ConfigError: It cannot be written there.
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


# What waits to be written is held in memory: so many files, and so many bytes or one file.
_MAX_PENDING: Final = 32
_MAX_PENDING_BYTES: Final = 128 * 2**20
_MODULUS: Final = 2**128


class ManyFiles:
    """Writes files in the background; the end of the block waits for all of them."""

    def __init__(self, destination: RunLocation) -> None:
        self._destination = destination
        self._pool = ThreadPoolExecutor(_WRITERS, thread_name_prefix="export")
        self._pending: deque[tuple[Future[None], int]] = deque()
        self._pending_bytes = 0
        self._sums: dict[str, int] = {}
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
        """Return this."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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


class JsonArray:
    """One array of the object."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.num_elements = 0

    def append(self, element: Any) -> None:
        """Add an element: all values that `json` writes by itself; numpy's numbers raise TypeError."""
        self._file.write(b",\n" if self.num_elements else b"")
        self._file.write(printable_json(element, separators=(",", ":")).encode())
        self.num_elements += 1


@contextmanager
def json_list(path: Path) -> Iterator[JsonArray]:
    """Write one array, which is the whole file, to `path`."""
    with path.open("wb") as file:
        file.write(b"[\n")
        yield JsonArray(file)
        file.write(b"\n]\n")


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
    """Yield (array's name, element) of a file of `json_arrays`, in its order, or ("", element) of one of `json_list`.

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


def _element(line: bytes, name: str) -> Any:
    try:
        return parse_json(line.removesuffix(b","))
    except ValueError as error:
        raise TransientError(f"{name} is not readable JSON ({error}). Run the same command again.") from error
