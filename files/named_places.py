"""Places that a name may stand before, `NAME=RUN` and `NAME=PATH`. Called by `cli`, `store` and `pseudoris`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from pseudoris.primitives.errors import ConfigError

_MAX_BYTES: Final = 255


class NamedPlace(NamedTuple):
    """A path or url, and the name that was given before it; None without one."""

    name: str | None
    place: str

    @classmethod
    def parse(cls, text: str, *, may_nest: bool = False) -> NamedPlace:
        """Return `NAME=PLACE` in its two parts; a path that exists and a url may hold a `=`.

        ConfigError for a name that cannot be the first folder of a key, or, if it `may_nest`, the first few.
        """
        name, sign, place = text.partition("=")
        if not sign or "://" in name or os.path.lexists(text):
            return cls(None, text)
        if not place or not all(map(_is_name, name.split("/") if may_nest else [name])):
            raise ConfigError(
                f"{text!r} is no NAME=PATH, whose NAME is a word without `/` of {_MAX_BYTES} bytes at most, and there "
                f"is no {text!r}: give another name, or check the path"
            )
        return cls(name, place)


def _is_name(word: str) -> bool:
    # As long as the name of a file may be: it begins the key of each image.
    return word not in ("", ".", "..") and "/" not in word and word.isprintable() and len(word.encode()) <= _MAX_BYTES


def named_runs(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Return the name and the place of each run that `combine` is given; "" for one run without a name.

    A run's own name is that of its folder. Two runs have one name only if both were given it.
    """
    parsed = [NamedPlace.parse(text) for text in texts]
    if len(parsed) == 1:
        return [(parsed[0].name or "", parsed[0].place)]
    found: list[tuple[str, str]] = []
    for given, place in parsed:
        name = given or PurePosixPath(place if "://" in place else os.path.normpath(Path(place).absolute())).name
        if not _is_name(name):
            raise ConfigError(f"the folder of {place} is no name for its images: give it one, NAME={place}")
        for (other, where), before in zip(found, parsed, strict=False):
            if name == other and None in (given, before.name):
                raise ConfigError(
                    f"both {where} and {place} would be named {name!r}: give NAME=RUN, two names, or one for runs over "
                    "the same pictures that share none of them"
                )
        found.append((name, place))
    return found


def moved_places(texts: Sequence[str] | None) -> str | Mapping[str, str] | None:
    """Return what `--source PATH` or `--source NAME=PATH`, which can be repeated, names; None without one."""
    parsed = [NamedPlace.parse(text, may_nest=True) for text in texts or ()]
    plain = [place for name, place in parsed if name is None]
    if plain and len(parsed) > 1:
        raise ConfigError(f"{plain[0]!r} has no name: of several places of images, each is NAME=PATH")
    return plain[0] if plain else {name: place for name, place in parsed if name} or None


def places_by_run(names: Sequence[str], source: str | Mapping[str, str] | None) -> tuple[Mapping[str, str], ...]:
    """Return where the images of each run are now, by the names of the runs within it.

    A path without a name is that of the only run. ConfigError for a name of no run, or a path that lacks one.
    """
    moved = {"": source} if isinstance(source, str) else dict(source or {})
    if len(names) == 1 and (not names[0] or "" in moved):
        return (moved,)
    found = tuple(
        {given[len(name) + 1 :]: place for given, place in moved.items() if f"{given}/".startswith(f"{name}/")}
        for name in names
    )
    if other := [given for given in moved if not any(f"{given}/".startswith(f"{name}/") for name in names)]:
        raise ConfigError(
            f"there are no images {other[0]!r} to be moved: the runs have the names {', '.join(dict.fromkeys(names))}"
            if other[0]
            else f"{moved['']!r} has no name: of several places of images, each is NAME=PATH"
        )
    return found
