"""Matches braces and globs as a shell does, part by part, so that a listing skips other folders. Called by `source`.

A pattern must select the same files on a disk and in a bucket.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from typing import Final

from pseudoris.primitives.errors import ConfigError

GLOB: Final = re.compile(r"[*?\[]")
MAGIC: Final = re.compile(r"[*?\[{]")
_RANGE: Final = re.compile(r"(\d+)\.\.(\d+)")
# Braces may give at most this many names, several times what the largest public data sets need.
MAX_EXPANDED: Final = 200_000


def split_root(pattern: str) -> tuple[str, str]:
    """Return the folder before the first special character, and the rest: `("a/b", "x-*.jpg")`."""
    match = MAGIC.search(pattern)
    literal = pattern[: match.start()] if match else pattern
    folder, slash, _ = literal.rpartition("/")
    return folder or slash, pattern[len(folder) + len(slash) :]


def expand_braces(pattern: str) -> list[str]:
    """Return the words that `pattern` expands to, in order: `{a,b}` and `{000..123}`, nested and repeated.

    As in a shell, a range keeps the zeros of its first number and may run backwards, and a brace with neither comma nor
    range is kept as it is. ConfigError for more than `MAX_EXPANDED` words.
    """
    words = list(islice(_expand(pattern), MAX_EXPANDED + 1))
    if len(words) > MAX_EXPANDED:
        raise ConfigError(
            f"the braces of {pattern!r} expand to more than {MAX_EXPANDED:,} names: give a folder or a glob"
        )
    return words


def _expand(pattern: str) -> Iterator[str]:
    for start, end in _braces(pattern):
        choices = _choices(pattern[start + 1 : end])
        if choices is not None:
            for choice in choices:
                for tail in _expand(pattern[end + 1 :]):
                    yield from (f"{pattern[:start]}{head}{tail}" for head in _expand(choice))
            return
    yield pattern


def _braces(pattern: str) -> Iterator[tuple[int, int]]:
    """Yield the positions of each brace and its partner, outer ones first."""
    open_at: list[int] = []
    pairs: list[tuple[int, int]] = []
    for at, sign in enumerate(pattern):
        if sign == "{":
            open_at.append(at)
        elif sign == "}" and open_at:
            pairs.append((open_at.pop(), at))
    yield from sorted(pairs)


def _choices(inside: str) -> Iterator[str] | None:
    """Return the choices of a brace; None if it is not a brace expression."""
    match = _RANGE.fullmatch(inside)
    if match:
        first, last = int(match[1]), int(match[2])
        step = 1 if first <= last else -1
        return (f"{number:0{len(match[1])}d}" for number in range(first, last + step, step))
    cuts = [-1]
    depth = 0
    for at, sign in enumerate(inside):
        depth += (sign == "{") - (sign == "}")
        if sign == "," and depth == 0:
            cuts.append(at)
    if len(cuts) == 1:
        return None
    return (inside[a + 1 : b] for a, b in zip(cuts, [*cuts[1:], len(inside)], strict=True))


@dataclass(frozen=True, slots=True)
class GlobPattern:
    """A glob over paths below a root: `*`, `?`, `[…]` within a name, `**` over any number of folders.

    It matches files, not folders, and a hidden name only if its own part begins with a dot.
    """

    parts: tuple[str, ...]

    @classmethod
    def parse(cls, pattern: str) -> GlobPattern:
        """Return the pattern of a text such as `**/*.jpg`."""
        return cls(tuple(part for part in pattern.split("/") if part))

    def matches(self, path: tuple[str, ...]) -> bool:
        """Return whether a file's path fits the whole pattern."""
        return _fits(path, self.parts, is_folder=False)

    def may_descend(self, folder: tuple[str, ...]) -> bool:
        """Return whether a file below the folder may fit."""
        return _fits(folder, self.parts, is_folder=True)


ALL_FILES: Final = GlobPattern(("**", "*"))


def _fits(path: tuple[str, ...], parts: tuple[str, ...], *, is_folder: bool) -> bool:
    if not path:
        # The path ends here. A folder is visited if parts of the pattern remain for the folder's content.
        return bool(parts) if is_folder else all(part == "**" for part in parts)
    if not parts:
        return False
    name, part = path[0], parts[0]
    # `.` and `..` are not hidden: in a bucket they are ordinary names, made by programs that join paths.
    is_shown = not name.startswith(".") or name in (".", "..")
    if part != "**":
        has_name = (is_shown or part.startswith(".")) and fnmatchcase(name, part)
        return has_name and _fits(path[1:], parts[1:], is_folder=is_folder)
    here = _fits(path, parts[1:], is_folder=is_folder)
    return here or (is_shown and _fits(path[1:], parts, is_folder=is_folder))
