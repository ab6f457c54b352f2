"""Untrusted pickles: plain lists, dicts, texts and numbers are read; everything that would run code is refused.

REFER datasets come as pickles, `refs(<splitBy>).p`: `read_refs` reads them without running anything.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any, Final

from pseudoris.schemas.errors import ConfigError
from pseudoris.store.files.storage_errors import storage_errors

_KEYS: Final = ("ref_id", "ann_id", "image_id", "category_id", "split", "sentences")
# Instructions that build plain values and keep the stack. None that names a function or a class, calls one, or sets an
# object's state; none of sets either, which no annotation has.
_PLAIN: Final = frozenset(
    {"PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "NONE", "NEWTRUE", "NEWFALSE"}
    | {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
    | {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
    | {"EMPTY_LIST", "APPEND", "APPENDS", "LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}
    | {"EMPTY_DICT", "DICT", "SETITEM", "SETITEMS"}
    | {"GET", "BINGET", "LONG_BINGET", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
)
_BYTES: Final = frozenset({"SHORT_BINBYTES", "BINBYTES", "BINBYTES8"})
_STORES: Final = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})


def read_refs(path: Path) -> list[dict[str, Any]]:
    """Return the references of a refs file, all in memory; each has the keys that REFER asks for.

    Files of Python 2 can be read too. A pickle that names a function or a class, a numpy number among them, is refused:
    it could call any function as it loads.

    Raises:
        ConfigError: The file does not exist, or is not a list of references.
        TransientError: Storage failed.
    """
    try:
        with storage_errors("read", str(path)):
            data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"There is no file {path}. Name the folder of a REFER dataset, and its splitBy.") from None
    refs = load_plain(data, str(path))
    if not isinstance(refs, list):
        raise ConfigError(f"{path} has a {type(refs).__name__}, not REFER's list of references")
    for number, ref in enumerate(refs):
        missing = [key for key in _KEYS if key not in ref] if isinstance(ref, dict) else list(_KEYS)
        if missing:
            raise ConfigError(f"{path}: reference number {number} has no {missing[0]!r}, which REFER's format needs")
    return refs


def load_plain(data: bytes, where: str, *, with_bytes: bool = False) -> Any:
    """Return what a pickle holds: lists, tuples, dicts, str, int, float, bool and None in any nesting.

    Every instruction is checked before the first one runs. Strings of Python 2 are read as UTF-8.

    Args:
        data: The pickle, whole.
        where: Its file, for messages.
        with_bytes: Allow bytes as well.

    Raises:
        ConfigError: It holds anything else, numpy's numbers among it, or is damaged.
    """
    try:
        _refuse_code(data, where, _PLAIN | _BYTES if with_bytes else _PLAIN)
        return _PlainUnpickler(io.BytesIO(data), encoding="utf-8").load()
    except (ConfigError, MemoryError):
        raise
    except Exception as error:  # on hostile bytes the unpickler raises any type
        raise ConfigError(
            f"{where} cannot be read as a pickle ({type(error).__name__}). Download the file again."
        ) from error


class _PlainUnpickler(pickle.Unpickler):
    """Refuses every class: a second check, after that of every instruction."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse."""
        raise pickle.UnpicklingError(f"{module}.{name} is not a plain value")


def _refuse_code(data: bytes, where: str, allowed: frozenset[str]) -> None:
    words: list[str] = []
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name not in allowed:
            # In newer protocols the two preceding texts name what is called.
            named = argument if isinstance(argument, str) else " ".join(words[-2:])
            raise _refusal(opcode.name, named, where)
        if opcode.name in _STORES and int(argument or 0) > len(data):
            # The unpickler would allocate as many values as this number.
            raise ConfigError(f"{where} is a damaged pickle: it stores a value under number {argument}")
        if isinstance(argument, str):
            words = [*words[-1:], argument]


def _refusal(opcode: str, named: str, where: str) -> ConfigError:
    if "numpy" in named:
        return ConfigError(
            f"{where} has numpy numbers. REFER's own loader does not find them either (it tests `type(x) == int`). "
            "Write the pickle again with int(…) and float(…) around ids, areas and boxes."
        )
    what = repr(named[:80]) if named else "something"
    return ConfigError(
        f"{where} is not plain data: its instruction {opcode} builds or calls {what}. A pickle can run any program, "
        "so only lists, dicts, texts and numbers are read. Get the file from where it was published."
    )
