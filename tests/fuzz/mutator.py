"""Damages valid inputs: bytes, and trees of plain values. The same random numbers give the same damage."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

# What a length field says to a reader that believes it.
NUMBERS = (0, 1, 2, 127, 128, 255, 256, 2**15 - 1, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1)
MAX_BYTES = 256 * 2**10
MAX_REPEATED = 4_000
# Beyond every parser that recurses.
DEPTH = 20_000
BRACKETS = ((b"[", b"]"), (b"{", b"}"), (b'{"a":', b"}"), (b"(", b")"), (b"]", b""), (b"(l", b"t"))
DIGITS = re.compile(rb"-?\d+")
VALUE_BEGINS = re.compile(rb"[:,\[(=]\s*")


def mutated(draw: Random, seeds: Sequence[bytes]) -> bytes:
    """Return one of `seeds`, damaged in one to four places; at most MAX_BYTES."""
    data = draw.choice(seeds)
    for _ in range(draw.choice((1, 1, 2, 4))):
        data = draw.choice(_CHANGES)(draw, data, seeds)[:MAX_BYTES]
    return data


def _flipped(draw: Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 3, 16)) if data else 0):
        changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _overwritten(draw: Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    at = draw.randrange(len(data) + 1)
    word = bytes([draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))]) * draw.choice((1, 1, 2, 8, 64))
    return data[:at] + word + data[at + len(word) :]


def _relengthened(draw: Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    at, size = draw.randrange(len(data) + 1), draw.choice((2, 4, 8))
    number = draw.choice(NUMBERS) % 256**size
    return data[:at] + number.to_bytes(size, draw.choice(("big", "little"))) + data[at + size :]


def _renumbered(draw: Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """Replace a number that is written in digits; it keeps its place, as in a tar, or grows, as in JSON."""
    found = list(DIGITS.finditer(data))
    if not found:
        return _relengthened(draw, data, seeds)
    match = draw.choice(found)
    word = draw.choice((b"-1", b"1e999", b"NaN", b"0" * 5_000, b"7" * 5_000, str(draw.choice(NUMBERS)).encode()))
    if draw.random() < 0.5:
        word = word[: len(match[0])].rjust(len(match[0]), b"7")
    return data[: match.start()] + word + data[match.end() :]


def _revarinted(draw: Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """Replace a byte by a number of variable length, as Thrift and the like write it."""
    at, number = draw.randrange(len(data) + 1), draw.choice(NUMBERS)
    word = bytearray()
    while number >= 128:
        word.append(number % 128 + 128)
        number //= 128
    return data[:at] + bytes([*word, number]) + data[at + 1 :]


def _cut(draw: Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    return data[: draw.randrange(len(data) + 1)]


def _without(draw: Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    start, end = _span(draw, data)
    return data[:start] + data[end:]


def _repeated(draw: Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    start, end = _span(draw, data)
    times = draw.choice((2, 3, 50, MAX_REPEATED))
    return data[:start] + data[start:end] * times + data[end:]


def _spliced(draw: Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    other = draw.choice(seeds)
    return data[: draw.randrange(len(data) + 1)] + other[draw.randrange(len(other) + 1) :]


def _nested(draw: Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """Insert brackets, mostly where a value may begin: elsewhere a parser stops before it is deep."""
    begins = [0, *(match.end() for match in VALUE_BEGINS.finditer(data))]
    at = draw.choice(begins) if draw.random() < 0.8 else draw.randrange(len(data) + 1)
    opening, closing = draw.choice(BRACKETS)
    depth = draw.choice((3, 100, 1_000, DEPTH))
    return data[:at] + opening * depth + closing * draw.choice((0, depth)) + data[at:]


def _span(draw: Random, data: bytes) -> tuple[int, int]:
    start = draw.randrange(len(data) + 1)
    return start, min(len(data), start + draw.choice((1, 4, 16, 64, 512, 4096)))


_CHANGES = (
    *(_flipped, _flipped, _overwritten, _overwritten, _relengthened, _relengthened),
    *(_renumbered, _renumbered, _cut, _without, _repeated, _spliced, _nested, _nested, _revarinted),
)


def strange_values() -> list[Any]:
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    return [
        *(None, True, False, 0, -1, 1.5, 10**30, -(10**30), *NUMBERS, float("nan"), float("inf"), -0.0),
        *("", "\0", "..", "../../etc/passwd", "/", "\ud800", "é" * 300, "a" * 100_000, "1", "file:///etc/passwd"),
        *([], {}, [[]], [None], {"": None}, deep, [0] * 10_000, {str(n): n for n in range(1_000)}),
    ]


def changed_tree(draw: Random, tree: Any) -> Any:
    """Return a copy of a tree of lists and dicts with one to four values changed, moved, repeated or removed."""
    # A list of one, so that the whole tree has a place too.
    root = [copy.deepcopy(tree)]
    for _ in range(draw.choice((1, 1, 2, 4))):
        parent, key = _place(draw, root)
        kind = draw.randrange(6)
        if kind <= 2:
            parent[key] = draw.choice(strange_values())
        elif kind == 3:
            other, place = _place(draw, root)
            parent[key] = copy.deepcopy(other[place])
        elif parent is not root and kind == 4:
            del parent[key]
        elif isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[key]))
        else:
            parent[draw.choice(("", "extra", f"{key}s"))] = parent[key]
    return root[0]


def of_trees(trees: Sequence[Any], write: Callable[[Any], bytes]) -> Callable[[Random, Sequence[bytes]], bytes]:
    """Return what damages either the values of `trees`, before they are written, or the bytes of seeds."""

    def vary(draw: Random, seeds: Sequence[bytes]) -> bytes:
        if draw.random() >= 0.6:
            return mutated(draw, seeds)
        return write(changed_tree(draw, draw.choice(trees)))

    return vary


def _place(draw: Random, root: list[Any]) -> tuple[Any, Any]:
    """Return a container and a key of it: any of the tree, or a way down that mostly ends near the top."""
    if draw.random() < 0.5:
        return draw.choice(list(_places(root)))
    parent, key = root, 0
    while isinstance(parent[key], list | dict) and parent[key] and draw.random() < 0.8:
        parent = parent[key]
        key = draw.randrange(len(parent)) if isinstance(parent, list) else draw.choice(list(parent))
    return parent, key


def _places(parent: Any) -> Iterator[tuple[Any, Any]]:
    for key in range(len(parent)) if isinstance(parent, list) else parent:
        yield parent, key
        if isinstance(parent[key], list | dict):
            yield from _places(parent[key])
