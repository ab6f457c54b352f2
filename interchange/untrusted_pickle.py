"""Reads untrusted pickles: plain lists, dicts, texts and numbers; everything that would run code is refused.

REFER datasets come as pickles, `refs(<splitBy>).p`. Called by the exclusions, imports, exports, human references and
examples. Nothing of a file may ever run, and a small file may not take much time or memory.
"""

from __future__ import annotations

import codecs
import io
import pickle
import pickletools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from pseudoris.files.storage import storage_errors
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.untrusted import MAX_BITS, kind_of, read_regular

_OPCODES: Final = {each.code: each for each in pickletools.opcodes}
_KEYS: Final = ("ref_id", "ann_id", "image_id", "category_id", "split", "sentences")


def read_refs(path: Path) -> list[dict[str, Any]]:
    """Return the references of a refs file, all in memory; each has the keys that REFER asks for.

    Files of Python 2 can be read too. A pickle that names a function or a class, a numpy number among them, is refused:
    it could call any function as it loads. ConfigError says so, or that there is no file or no list of references.
    """
    try:
        with storage_errors("read", str(path)):
            data = read_regular(path)
    except FileNotFoundError:
        raise ConfigError(f"There is no file {path}. Name the folder of a REFER dataset, and its splitBy.") from None
    refs = load_plain(data, str(path))
    if not isinstance(refs, list):
        raise ConfigError(f"{path} has {kind_of(refs)}, not REFER's list of references")
    for number, ref in enumerate(refs):
        missing = [key for key in _KEYS if key not in ref] if isinstance(ref, dict) else list(_KEYS)
        if missing:
            raise ConfigError(f"{path}: reference number {number} has no {missing[0]!r}, which REFER's format needs")
        for key in ("ref_id", "ann_id", "image_id", "split"):
            # Other types are refused, because nested lists may share parts and become huge in a message.
            if not isinstance(ref[key], str if key == "split" else int | str):
                kind = kind_of(ref[key])
                raise ConfigError(f"{path}: reference number {number} has {kind} as {key!r}, not a number or text")
    return refs


def load_plain(data: bytes, where: str) -> Any:
    """Return what a pickle holds: lists, tuples, dicts, str, int, float, bool and None in any nesting.

    Keys are texts and whole numbers have 64 bits, so that no choice of keys makes a dict slow. Strings of Python 2 are
    read as UTF-8, those that are not UTF-8 as latin-1.

    A ConfigError names the file, `where`, if it holds anything else, or is damaged.
    """
    built, words = _Built(len(data)), [""]
    try:
        for name, argument in _instructions(data):
            build = _INSTRUCTIONS.get(name)
            if build is None:
                # Newer protocols have the name of the called function in the two texts before this instruction.
                raise _refusal(name, argument if isinstance(argument, str) else " ".join(words), where)
            build(built, argument)
            if isinstance(argument, str):
                words = [words[-1], argument]
        (value,) = built.values
    except (ConfigError, MemoryError):
        raise
    except Exception as error:  # hostile bytes may raise any type
        raise ConfigError(
            f"{where} cannot be read as a pickle: it is damaged or cut short. Download the file again."
        ) from error
    return value


def _instructions(data: bytes) -> Iterator[tuple[str, Any]]:
    """Yield name and argument of each instruction; `pickletools.genops` refuses protocol 0's strings beyond ASCII."""
    stream, name = io.BytesIO(data), ""
    while name != "STOP":
        opcode = _OPCODES[stream.read(1).decode("latin-1")]
        name = opcode.name
        if name == "STRING":
            quoted = pickletools.read_stringnl(stream, decode=False)
            yield name, codecs.escape_decode(quoted)[0].decode("latin-1")
        else:
            yield name, None if opcode.arg is None else opcode.arg.reader(stream)


def _text_of(data: bytes) -> str:
    # Pickles of Python 2 hold texts as the bytes of the source file: mostly UTF-8, in old files also latin-1.
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


class _Built:
    """What a pickle's instructions have built: a stack of values, marks in it, and values stored under numbers."""

    def __init__(self, size_bytes: int) -> None:
        self.values: list[Any] = []
        self._size_bytes = size_bytes
        self._marks: list[int] = []
        self._stored: dict[int, Any] = {}

    def push(self, value: Any) -> None:
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise OverflowError
        self.values.append(value)

    def frame(self, size_bytes: int) -> None:
        if size_bytes > self._size_bytes:
            raise EOFError

    def mark(self, _: None) -> None:
        self._marks.append(len(self.values))

    def pop(self, _: None) -> None:
        if self._marks and self._marks[-1] == len(self.values):
            self._marks.pop()
        else:
            self.values.pop()

    def above(self, mark: int | None = None) -> list[Any]:
        start = self._marks.pop() if mark is None else len(self.values) - mark
        found = self.values[start:]
        del self.values[start:]
        return found

    def store(self, number: int | None) -> None:
        self._stored[len(self._stored) if number is None else number] = self.values[-1]

    def fetch(self, number: int) -> None:
        self.values.append(self._stored[number])

    def extend(self, items: list[Any]) -> None:
        found = self.values[-1]
        if not isinstance(found, list):
            raise TypeError
        found += items

    def update(self, items: list[Any]) -> None:
        found, keys = self.values[-1], items[::2]
        if not isinstance(found, dict) or not all(isinstance(key, str) for key in keys):
            raise TypeError
        found.update(zip(keys, items[1::2], strict=True))

    def dict(self, _: None) -> None:
        items = self.above()
        self.values.append({})
        self.update(items)


_NUMBERS: Final = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
_TEXTS: Final = ("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8")
# Instructions that build plain values and keep the stack. Left out are those that name a function or a class, call one,
# or set an object's state, and those of sets, which no annotation has.
_INSTRUCTIONS: Final[dict[str, Callable[[_Built, Any], None]]] = {
    **dict.fromkeys(("PROTO", "STOP"), lambda built, _: None),
    "FRAME": _Built.frame,
    **dict.fromkeys((*_NUMBERS, *_TEXTS), _Built.push),
    # `genops` decodes the strings of Python 2 as Latin-1, so encoding them again gives their bytes.
    **dict.fromkeys(
        ("STRING", "BINSTRING", "SHORT_BINSTRING"), lambda built, text: built.push(_text_of(text.encode("latin-1")))
    ),
    "NONE": lambda built, _: built.push(None),
    "NEWTRUE": lambda built, _: built.push(True),
    "NEWFALSE": lambda built, _: built.push(False),
    "MARK": _Built.mark,
    "POP": _Built.pop,
    "POP_MARK": lambda built, _: built.above().clear(),
    "DUP": lambda built, _: built.push(built.values[-1]),
    "EMPTY_LIST": lambda built, _: built.push([]),
    "LIST": lambda built, _: built.push(built.above()),
    "APPEND": lambda built, _: built.extend(built.above(1)),
    "APPENDS": lambda built, _: built.extend(built.above()),
    "EMPTY_TUPLE": lambda built, _: built.push(()),
    "TUPLE": lambda built, _: built.push(tuple(built.above())),
    "TUPLE1": lambda built, _: built.push(tuple(built.above(1))),
    "TUPLE2": lambda built, _: built.push(tuple(built.above(2))),
    "TUPLE3": lambda built, _: built.push(tuple(built.above(3))),
    "EMPTY_DICT": lambda built, _: built.push({}),
    "DICT": _Built.dict,
    "SETITEM": lambda built, _: built.update(built.above(2)),
    "SETITEMS": lambda built, _: built.update(built.above()),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Built.fetch),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Built.store),
}


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


class PlainUnpickler(pickle.Unpickler):
    """Loads a pickle of our own, in which a name, as numpy's numbers have one, is an `UnpicklingError`."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse every function and class."""
        raise pickle.UnpicklingError(f"{module}.{name} is no plain value")
