"""Long JSON arrays, one or several in an object, written and read one element at a time to save memory.

    {"images": [
    {"id": 1, …},
    {"id": 2, …}
    ], "annotations": [
    …
    ]}

Every element has its own line, so that the file is read back line by line.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, BinaryIO, Final

from pseudoris.schemas.errors import TransientError
from pseudoris.schemas.json_text import parse_json
from pseudoris.schemas.printable import printable_json

_OPENS: Final = re.compile(rb'^(?:\{|\], )("(?:[^"\\]|\\.)*"): \[$')
_CLOSES: Final = b"]}"


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

    Args:
        path: A file on this disk, which the end of the block creates.
        names: Names of the arrays, in the order of the object.
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
            whole.write(_CLOSES + b"\n")


def iter_json_list(file: BinaryIO, name: str) -> Iterator[Any]:
    """Yield the elements of a file of `json_list`; arguments and errors as of `iter_json_arrays`."""
    if file.readline().strip() != b"[":
        raise TransientError(f"{name} does not begin as a list. Run the same command again.")
    for line in map(bytes.rstrip, file):
        if line == b"]":
            return
        if line:
            yield _element(line, name)
    raise TransientError(f"{name} ends before its last bracket. Run the same command again.")


def iter_json_arrays(file: BinaryIO, name: str) -> Iterator[tuple[str, Any]]:
    """Yield (array's name, element) of a file of `json_arrays`, in its order.

    Args:
        file: Open for reading.
        name: Name of the file, for errors.

    Raises:
        TransientError: It cannot be read as such a file to its end.
    """
    array: str | None = None
    for line in map(bytes.rstrip, file):
        opens = _OPENS.match(line)
        if opens:
            array = _element(opens[1], name)
        elif line == _CLOSES:
            return
        elif line:
            yield array or "", _element(line, name)
    raise TransientError(f"{name} ends before its last bracket. Run the same command again.")


def _element(line: bytes, name: str) -> Any:
    try:
        return parse_json(line.removesuffix(b","))
    except ValueError as error:
        raise TransientError(f"{name} is not readable JSON ({error}). Run the same command again.") from error
