"""Handles what others made, for every room: files, image formats, JSON, and text that is shown.

A planted link would lead a write to another file of the user's. A planted pipe would block a read for ever. Shown text
could set a terminal's title and overwrite its lines, or turn the direction of writing, on a page as well. The prover's
child imports this module, so it imports no pydantic.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
import re
import stat
import traceback
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, Literal, TextIO, overload

from pseudoris.primitives.errors import ConfigError

# Larger files than this are refused, because files are read whole. The largest known annotations have 1.1 GB (LVIS).
MAX_BYTES: Final = 4 * 2**30
_KINDS: Final[Mapping[type, str]] = {dict: "an object", list: "a list", tuple: "a list", str: "a text", bytes: "bytes"}


@overload
def open_regular(path: Path, mode: Literal["rb"] = "rb") -> BufferedReader: ...
@overload
def open_regular(path: Path, mode: Literal["wb", "ab"]) -> BinaryIO: ...
@overload
def open_regular(path: Path, mode: Literal["r", "w", "x"]) -> TextIO: ...
def open_regular(path: Path, mode: str = "rb") -> IO[Any]:
    """Return a file opened as the builtin `open` does; text is UTF-8.

    ConfigError: it is a link, or neither a file nor a folder, or it has a second name and would be written.
    """
    return open(path, mode, encoding=None if "b" in mode else "utf-8", opener=_open)


def refuse_links(folder: Path, path: str) -> None:
    """Raise a ConfigError if a part of `path` below `folder` is a link; what does not exist is none."""
    for place in (folder / path, *(folder / path).parents):
        if place == folder:
            return
        if place.is_symlink():
            raise _refusal(place, "a link")


def open_linked(path: Path) -> BufferedReader:
    """Return a file of the user's own folder, opened for reading bytes. Links and errors as of `read_regular`."""
    return open(path, "rb", opener=_checked)


def kind_of(value: object) -> str:
    """Return what a value of a foreign file is, in plain words."""
    return "nothing" if value is None else _KINDS.get(type(value), "a number")


def file_sha256(path: Path) -> str:
    """Return the sha256 of such a file as 64 hex digits."""
    with open_linked(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_regular(path: Path) -> bytes:
    """Return a file that the user's own folder holds: links are followed, a pipe or a device is refused.

    Raises:
        ConfigError: It is neither a file nor a folder, or larger than `MAX_BYTES`.
    """
    with open_linked(path) as file:
        size_bytes = os.fstat(file.fileno()).st_size
        if size_bytes > MAX_BYTES:
            raise ConfigError(f"{path} has {size_bytes:,} bytes, at most {MAX_BYTES:,} are read. Split it, or check it")
        return file.read()


def _open(path: str, flags: int) -> int:
    # O_TRUNC is left out here: the file is emptied only after the check that it has no other name (hard link).
    descriptor = _checked(path, (flags & ~os.O_TRUNC) | os.O_NOFOLLOW)
    if flags & (os.O_WRONLY | os.O_RDWR) and os.fstat(descriptor).st_nlink > 1:
        os.close(descriptor)
        raise _refusal(Path(path), "a file with another name elsewhere (a hard link)")
    if flags & os.O_TRUNC:
        os.ftruncate(descriptor, 0)
    return descriptor


def _checked(path: str, flags: int) -> int:
    try:
        # Without O_NONBLOCK, opening a pipe would wait for its other end.
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        what = {errno.ELOOP: "a link", errno.ENXIO: "a pipe or a socket"}.get(error.errno or 0)
        if what is None:
            raise
        raise _refusal(Path(path), what) from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        os.close(descriptor)
        raise _refusal(Path(path), "a pipe or a device")
    return descriptor


def _refusal(path: Path, what: str) -> ConfigError:
    return ConfigError(
        f"{path} is {what}. Others may have put it there, so only regular files are read and written. Move it away, or "
        "put a copy of the file in its place"
    )


# `pseudoris[heif]` installs this Pillow plug-in, which reads files with these extensions.
HEIF_PLUGIN: Final = "pillow_heif.HeifImagePlugin"
HEIF_EXTENSIONS: Final = (".heic", ".heif", ".hif")

# Formats that may be opened, by Pillow's names; MPO is opened as JPEG. The list is closed because a folder of images is
# untrusted input, and Pillow would pass a PostScript file to Ghostscript.
IMAGE_FORMATS: Final = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000", "AVIF")
EXTENSIONS: Final = (
    *(".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"),
    *(".jpe", ".jfif", ".mpo", ".jp2", ".j2k", ".avif"),
)


# Whole numbers may have this many bits. Python's hash is the remainder by 2^61 - 1: with larger numbers a file of a few
# megabytes can make one dict of ids take minutes.
MAX_BITS: Final = 64
# Matches 19 digits in a row. A text without them holds no number above 64 bits.
_MANY_DIGITS: Final = re.compile("[0-9]{19}")
_MANY_DIGITS_UTF8: Final = re.compile(b"[0-9]{19}")


def parse_json(text: str | bytes, *, takes_large: bool = False) -> Any:
    """Return the values of a JSON text. If it `takes_large`, a whole number beyond 64 bits is a float.

    Raises:
        ValueError: It is not JSON, not UTF-8, nests deeper than the parser can go (hundreds of levels), or has a whole
            number beyond 64 bits which it does not take.
    """
    may_have = _MANY_DIGITS.search(text) if isinstance(text, str) else _MANY_DIGITS_UTF8.search(text)
    try:
        # `parse_int` calls a function for each number, which is slow, so it is used only if a number may be large.
        return json.loads(text, parse_int=_float if takes_large else _whole) if may_have else json.loads(text)
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None


def _float(digits: str) -> int | float:
    return int(digits) if len(digits) < 19 else float(digits)


def _whole(digits: str) -> int:
    value = int(digits)
    if value.bit_length() > MAX_BITS:
        raise ValueError(f"its number {digits[:24]} has more than 64 bits")
    return value


# Matches a link from its slashes on, to the next white space. Two slashes inside a path begin no link, nor do those of
# `file:///`. A link may be encoded, as a field of another one.
_LINK: Final = re.compile(
    r"(?:(?<=[A-Za-z0-9+.-]:)(?!(?:(?<=file:)|(?<=local:))///)/|(?<![\w/.:])//|(?<=\w)(?i:%(?:25)*3a(?:%(?:25)*2f){2}))\S+"
)
# Matches credentials in links. A secret key is base64, so a `/` between `:` and `@` may belong to it.
_USERINFO: Final = re.compile(r"(/|%(?:25)*2[fF])\1(?:(?!\1)[^/])*(?:@|%(?:25)*40)|//[^/:\[]+:(?!\d*/)[^@]*@")
# Matches credentials in links with one slash or none after the colon, which clients accept too.
_BARE_USERINFO: Final = re.compile(
    r"(?<![\w.+])(?:(?i:https?|s3a?|gcs|gs|az|abfs|hf|ftp):/?(?!/)[^\s@/]{1,512}@"
    r"|[A-Za-z][\w.+-]{0,64}:[^\s@/]{1,512}@(?=[\w.-]+[:/]))"
)
# Matches a query, fragment or parameters, encoded or not, to the end of the link. `#` and a number is a table's row.
_QUERY: Final = re.compile(r"(?:\?|#(?!\d+\W*$)|%(?:25)*(?:3[fF]|23)|;(?=[\w.-]+=)).*", re.DOTALL)
# Matches a query after a word or a request such as `GET /path`. In other absolute paths a `?` is part of the name.
_BARE_QUERY: Final = re.compile(
    r"((?:(?<![A-Za-z])[A-Z]{3,7}[ \t]+(?=/)"
    r"|(?<!\S)(?![\"'(\[]?(?:/|file:/|local:/))(?=[^\s?]*\?[\w.~%-]+=))[^\s?]*)\?\S+"
)
# These letters end a sentence and do not belong to the link before them.
_END: Final = "\"'<>`:;,.)]!"


def without_secrets(text: str) -> str:
    """Return a text for a message or a log: each link without its userinfo, and with `?…` as its query and fragment.

    All of them, whatever their names: a list of those that hold secrets would always be one service short.
    """
    if "/" in text or "%2" in text:
        text = _LINK.sub(lambda link: _USERINFO.sub("//…@", _QUERY.sub(_hidden, link[0])), text)
    if "?" in text:
        text = _BARE_QUERY.sub(lambda word: f"{word[1]}{_hidden(word)}", text)
    return _BARE_USERINFO.sub("…@", text) if "@" in text else text


def has_userinfo(text: str) -> bool:
    """Return whether a text begins with credentials before an `@`, or has such a link, with blanks too."""
    links = _LINK.findall(re.sub(r"\s", "_", text)) if "@" in text or "%" in text else []
    return any(map(_USERINFO.search, links)) or _BARE_USERINFO.match(text) is not None


def _hidden(query: re.Match[str]) -> str:
    return f"?…{query[0][len(query[0].rstrip(_END)) :]}"


def told(error: BaseException) -> BaseException:
    """Return what to raise another error from: `error`, or its text if it, or what it comes from, has secrets."""
    whole = "".join(traceback.format_exception(error))
    if without_secrets(whole) == whole:
        return error
    return OSError(getattr(error, "errno", None) or 0, without_secrets(f"{type(error).__name__}: {error}"))


def mask_logs() -> None:
    """Make this process write all its log records `without_secrets`, also those of others' libraries."""
    make = logging.getLogRecordFactory()
    if getattr(make, "masks", False):
        return

    def masked(*arguments: Any, **named: Any) -> logging.LogRecord:
        record = make(*arguments, **named)
        with suppress(Exception):  # of a faulty call, which `logging` reports
            record.msg, record.args = without_secrets(record.getMessage()), ()
        if record.exc_info:
            record.exc_text = without_secrets(logging.Formatter().formatException(record.exc_info))
        return record

    masked.masks = True  # type: ignore[attr-defined]  # so that it is set once
    logging.setLogRecordFactory(masked)


# These Unicode categories are control characters, direction marks, lone surrogates and line ends.
_CONTROL_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def printable(text: str) -> str:
    """Return a text `without_secrets` and `without_controls`."""
    return without_controls(without_secrets(text))


def without_controls(text: str) -> str:
    """Return a text with control characters spelled out in ASCII; line ends and tabs stay."""
    if text.isprintable():
        return text
    return "".join(letter if letter in "\n\t" or not _is_control(letter) else spelled(letter) for letter in text)


def spelled(letter: str) -> str:
    """Return a letter as its escape, in ASCII."""
    return letter.encode("unicode_escape").decode("ascii")


def printable_json(value: object, *, ensure_ascii: bool = False, **options: Any) -> str:
    """Return `json.dumps` of a value, in which control characters are JSON's escapes; it is read as the same value."""
    text = json.dumps(value, ensure_ascii=ensure_ascii, **options)
    if text.isprintable():
        return text
    return "".join(json.dumps(letter)[1:-1] if letter != "\n" and _is_control(letter) else letter for letter in text)


def without_nan(value: Any) -> Any:
    """Return JSON values with null in place of what is not finite."""
    if isinstance(value, Mapping):
        return {name: without_nan(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_control(letter: str) -> bool:
    return unicodedata.category(letter) in _CONTROL_CATEGORIES


def visible(value: object) -> object:
    """Return text as `printable` does, and markup and other values as they are: jinja's `finalize`, for any template.

    Titles, `alt` and other attributes pass it as well as the text of elements.
    """
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
