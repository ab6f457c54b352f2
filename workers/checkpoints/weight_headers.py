"""Refuses a weights file that the loaders could not read, by its header alone, before a run is planned.

Called for digests by `weight_files.py`, `model_folder.py` and `workers/stages.py`, so it imports no torch, and for a
message by `tensor_files.py`. Nothing is unpickled: the table of a safetensors file is checked, or each instruction of a
checkpoint's pickle. It must accept what torch's own unpickler of weights accepts, and answer within seconds.
"""

from __future__ import annotations

import os
import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterable
from functools import partial
from io import BufferedReader, BytesIO
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final

from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.extras import require_extra
from pseudoris.primitives.untrusted import open_linked

# torch accepts these instructions of a pickle, and these names in it. Source: torch 2.14, _weights_only_unpickler.py.
_INSTRUCTIONS: Final = re.compile(
    r"APPENDS?|BINFLOAT|(LONG_)?BIN(GET|PUT)|BININT[12]?|BINPERSID|BINUNICODE|BUILD|EMPTY_(DICT|LIST|SET|TUPLE)|GLOBAL"
    r"|LONG1|MARK|NEW(FALSE|OBJ|TRUE)|NONE|PROTO|REDUCE|SETITEMS?|SHORT_BINSTRING|STOP|TUPLE[123]?"
)
_NAMES: Final = re.compile(
    r"_codecs encode|(builtins|__builtin__) (bytearray|complex|set)|collections (Counter|OrderedDict)"
    r"|torch(\.cuda)?(\.sparse)? ([A-Z][A-Za-z0-9]*)?(Storage|Tensor)|torch\.storage (Typed|Untyped)Storage"
    r"|torch (Size|bool|device|(b?complex|b?float|bits|q?u?int)\d\w*|per_(channel|tensor)_\w+)"
    r"|torch\._utils _rebuild_\w+|torch\._tensor _rebuild_from_type_v2|torch\.nn\.parameter Parameter"
    r"|torch\.serialization _get_layout"
)
# Maps torch's storage type to the bytes of an element. An element of any other type takes one byte.
_ELEMENT_BYTES: Final = {
    **{"BFloat16": 2, "Half": 2, "Short": 2, "Float": 4, "Int": 4, "QInt32": 4},
    **{"Double": 8, "Long": 8, "ComplexFloat": 8, "ComplexDouble": 16},
}
# Files of torch before 1.6 start with this number. Source: torch.serialization.MAGIC_NUMBER.
_MAGIC: Final = 0x1950A86A20F9469CFC6C
_ARCHIVE: Final = b"PK\x03\x04"
# A pickle may have this many bytes and instructions, read in a second. SAM's ViT-H has 20,000 instructions.
_MAX_PICKLE_BYTES: Final = 2**26
_MAX_INSTRUCTIONS: Final = 500_000
# An archive's index has at most this many bytes: 40,000 members, read in half a second. SAM's ViT-H has 600.
_MAX_READ_BYTES: Final = 2**22
_SHOWN_LETTERS: Final = 500
_GET_AGAIN: Final = "it is cut or damaged: get it again"


class _UnreadableError(ValueError):
    """The message says why, for the user."""


def check_weight_header(path: Path, what: str) -> None:
    """Refuse a file of which the loaders could read no tensors; `what` names it in the error, a ConfigError."""
    try:
        check_header(path)
    except OSError as error:
        raise ConfigError(f"{what} cannot be read as tensors: {error.strerror or error}") from None
    except ValueError as error:
        raise ConfigError(f"{what} cannot be read as tensors: {error}") from None


def check_header(path: Path) -> None:
    """Refuse a file as `check_weight_header`, by a ValueError whose message is for the user, an OSError or ConfigError.

    Every loader of such files calls it first: a header of kilobytes may ask for gigabytes.
    """
    start = b""
    try:
        with open_linked(path) as file:
            start = file.peek(64)[:64]
            if path.suffix == ".safetensors":
                require_extra("remote", "the header of a .safetensors file")
                from safetensors import safe_open

                with safe_open(path, framework="numpy"):
                    return
            if start.startswith(_ARCHIVE):
                _check_archive(file)
            else:
                _check_pickles(file)
    except (OSError, ConfigError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001  # on hostile bytes zipfile and pickletools may raise any type
        told = str(error) if isinstance(error, _UnreadableError) else f"{_GET_AGAIN} ({error})"[:_SHOWN_LETTERS]
        raise ValueError(_mistaken(start) or told) from None


def more_than_tensors(found: str = "") -> str:
    """Return why a pickle is refused; `found` is what it holds."""
    return (
        f"it is a pickle that holds more than tensors and plain values{found and f' ({found})'}, and loading that can "
        "run any program. Get the weights as safetensors, or as a state dict"
    )


def _mistaken(start: bytes) -> str:
    """What a file is instead, by its first bytes; empty if they do not say."""
    if not start:
        return "it is empty: get it again"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, not the file: run `git lfs pull` where it is from"
    return "it is a web page: download the file itself" if start.lstrip().startswith(b"<") else ""


class _BoundedReads(BufferedReader):
    """A file as `zipfile` reads it, which takes the whole list of members at once before it knows their number."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MAX_READ_BYTES:
            raise _UnreadableError(f"its list of members has {size:,} bytes, at most {_MAX_READ_BYTES:,} are read")
        return super().read(size)


def _check_archive(file: BufferedReader) -> None:
    with zipfile.ZipFile(_BoundedReads(file.raw)) as archive:
        members = {member.filename: member for member in archive.infolist()}
        # torch.save stores its members as they are. Deflated ones, or ones that share their bytes, may grow by 1,000.
        found = members.values()
        if any(each.compress_type != zipfile.ZIP_STORED or each.compress_size != each.file_size for each in found):
            raise _UnreadableError("its members are compressed, and torch.save compresses none: save it anew with it")
        needed = sum(each.file_size for each in archive.infolist())
        if needed > (size_bytes := os.fstat(file.fileno()).st_size):
            raise _UnreadableError(f"{_GET_AGAIN} ({size_bytes:,} bytes, {needed:,} by its list of members)")
        root = next(iter(members), "").partition("/")[0]
        if f"{root}/data.pkl" not in members or f"{root}/constants.pkl" in members:
            raise _UnreadableError("it is an archive, but no checkpoint that torch.save wrote: give one")
        with archive.open(f"{root}/data.pkl") as opened:
            blocks = islice(iter(partial(opened.read, _MAX_READ_BYTES), b""), _MAX_PICKLE_BYTES // _MAX_READ_BYTES)
            storages, _ = _walk(BytesIO(b"".join(blocks)))
    for key, size_bytes in storages.items():
        member = members.get(f"{root}/data/{key}")
        if member is None or member.file_size < size_bytes:
            raise _UnreadableError(f"{_GET_AGAIN} (its tensors need {size_bytes:,} bytes of data/{key})")


def _check_pickles(file: IO[bytes]) -> None:
    """Checks the pickles of magic number, version, system, state and keys, before the bytes of the tensors."""
    data = BytesIO(file.read(min(_MAX_PICKLE_BYTES, os.fstat(file.fileno()).st_size)))
    if not data.getvalue().startswith(pickle.PROTO) or _walk(data)[1] != [_MAGIC]:
        raise _UnreadableError("it is neither safetensors nor a checkpoint of torch: give one of both")
    storages: dict[str, int] = {}
    for _ in range(4):
        storages |= _walk(data)[0]
    needed = data.tell() + sum(8 + size_bytes for size_bytes in storages.values())
    if needed > (size_bytes := os.fstat(file.fileno()).st_size):
        raise _UnreadableError(f"{_GET_AGAIN} ({size_bytes:,} bytes, {needed:,} by its pickle)")


def _walk(data: BytesIO) -> tuple[dict[str, int], list[Any]]:
    """Checks the instructions of a pickle to its end; returns the bytes of each storage, and its last plain values."""
    # A storage in a pickle is a mark, the word `storage`, and the storage's type, key, device and number of elements.
    storages: dict[str, int] = {}
    memo: dict[int, Any] = {}
    values: list[Any] = []
    instructions: Iterable[tuple[pickletools.OpcodeInfo, Any, Any]] = pickletools.genops(data)
    for number, (instruction, value, _) in enumerate(instructions):
        name = instruction.name
        if not _INSTRUCTIONS.fullmatch(name) or number == _MAX_INSTRUCTIONS:
            raise _UnreadableError(more_than_tensors(name))
        if name == "GLOBAL" and not _NAMES.fullmatch(value):
            raise _UnreadableError(more_than_tensors(value.replace(" ", ".")))
        if name == "MARK":
            values = []
        elif name.endswith("BINPUT"):
            memo[value] = values[-1] if values else None
        elif name.endswith("BINGET"):
            values.append(memo.get(value))
        elif name == "BINPERSID":
            _, kind, key, _, count = values[:5]
            storages[key] = count * _ELEMENT_BYTES.get(kind.partition(" ")[2].removesuffix("Storage"), 1)
        elif value is not None and name != "PROTO":
            values.append(value)
    return storages, values
