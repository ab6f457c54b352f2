"""Pickles of strangers: plain lists, dicts, texts and numbers are read, whatever would run code is refused unread."""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import Any, Final

from schemas.errors import ConfigError

# What builds plain values and keeps the stack. Absent is all that names a function or a class, calls one, or sets an
# object's state; sets as well, which no annotation has.
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


class _PlainUnpickler(pickle.Unpickler):
    """Finds no class: the second lock, behind the look at every instruction."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse."""
        raise pickle.UnpicklingError(f"{module}.{name} is no plain value")


def load_plain(data: bytes, where: str, *, with_bytes: bool = False) -> Any:
    """Return what a pickle holds: lists, tuples, dicts, str, int, float, bool and None in any nesting.

    Every instruction is looked at before the first one is carried out. Strings of Python 2 are read as UTF-8.

    Args:
        data: The pickle, whole.
        where: Its file, for messages.
        with_bytes: Let it hold bytes as well.

    Raises:
        ConfigError: It holds anything else, numpy's numbers among it, or is damaged.
    """
    try:
        _refuse_code(data, where, _PLAIN | _BYTES if with_bytes else _PLAIN)
        return _PlainUnpickler(io.BytesIO(data), encoding="utf-8").load()
    except (ConfigError, MemoryError):
        raise
    except Exception as error:  # on hostile bytes the unpickler raises any type
        raise ConfigError(f"{where} cannot be read as a pickle ({type(error).__name__}): get the file again") from error


def _refuse_code(data: bytes, where: str, allowed: frozenset[str]) -> None:
    words: list[str] = []
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name not in allowed:
            # In a newer protocol the two texts before name what is to be called.
            named = argument if isinstance(argument, str) else " ".join(words[-2:])
            raise _refusal(opcode.name, named, where)
        if opcode.name in _STORES and int(argument or 0) > len(data):
            # The unpickler would make room for as many values as the number says.
            raise ConfigError(f"{where} is no sound pickle: it stores a value under number {argument}")
        if isinstance(argument, str):
            words = [*words[-1:], argument]


def _refusal(opcode: str, named: str, where: str) -> ConfigError:
    if "numpy" in named:
        return ConfigError(
            f"{where} holds numbers of numpy, which REFER's own loader does not find either (it asks for "
            "`type(x) == int`): write the pickle again with int(…) and float(…) around ids, areas and boxes"
        )
    what = repr(named[:80]) if named else "something"
    return ConfigError(
        f"{where} is not plain data: its instruction {opcode} builds or calls {what}. A pickle can run any program; "
        "only lists, dicts, texts and numbers are read. Get the file from where it was published"
    )
