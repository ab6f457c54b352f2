"""Puts each picture of some runs into a split, such that no split has a copy of another's, for `combine --hold-out`.

Called by `combination.py`. Pictures that belong together are a group, and a group is in one split: that of a picture
whose run has one, else what is drawn by the first sha256 of the group. So neither more runs nor more images of a run
move a picture that is there.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.csv

from pseudoris.files.location import RunLocation
from pseudoris.images.parquet_pages import read_columns
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.untrusted import read_regular
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.run_records import SplitRecord
from pseudoris.schemas.tables import SPLITS
from pseudoris.store.runs.copied_pictures import LeftOutImage, LeftOutImages, NearHashes, Picture
from pseudoris.store.sources.items import TAR_NAME

GROUPS: Final = ("folder", "similar")
TRAIN: Final = "train"
_COLUMNS: Final = ("key", "group")
# Shares are decimals, of which sums such as 0.7 + 0.2 + 0.1 are above 1 by rounding.
ROUNDING: Final = 1e-9
# What ends the name of a tar or a table in a key; in names these are percent-encoded.
_ENDS: Final = str.maketrans("!#", "//")
# What `pseudoris tile` puts before the name of a picture that it copied; members and rows lie below their file there.
_OF_TILES: Final = re.compile(rf"(?:^|(?<=/)){TAR_NAME.pattern}!")
_DRAW_DIGITS: Final = 13


@dataclass(frozen=True, slots=True)
class HoldOut:
    """The share of pictures that each split gets, by its name, and which belong together besides copies and tiles.

    `group` is one of `GROUPS`, or the sha256 of a file, whose keys by group are `groups`; None for nothing else.
    """

    shares: Mapping[str, float]
    group: str | None = None
    groups: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, shares: Mapping[str, float], group: str | Path | None = None) -> Self:
        """Return it from shares and from `folder`, `similar`, or a `.parquet` or `.csv` with the columns key and group.

        ConfigError for an unknown split, shares that are no shares of 1, or a file that cannot be read.
        """
        for name, share in shares.items():
            if name not in SPLITS:
                raise ConfigError(f"--hold-out {name}={share:g}: there is no split {name!r}: give {', '.join(SPLITS)}")
            if not 0 <= share <= 1:
                raise ConfigError(f"--hold-out {name}={share:g}: give a share from 0 to 1, such as {name}=0.05")
        total = sum(shares.values())
        if total > 1 + ROUNDING or (TRAIN in shares and total < 1 - ROUNDING):
            said = ", ".join(f"{name}={share:g}" for name, share in shares.items())
            most = "with train they must be 1" if TRAIN in shares else "they may be 1 at most"
            raise ConfigError(f"the shares of --hold-out, {said}, are {total:g} together: {most}")
        if group is not None and not shares:
            raise ConfigError(f"--group {group} says what --hold-out draws as one: name a share, --hold-out val=0.05")
        if group is None or group in GROUPS:
            return cls(shares, None if group is None else str(group))
        data, groups = _read_groups(Path(group))
        return cls(shares, sha256_hex(data), groups)

    @classmethod
    def parse(cls, texts: Sequence[str], group: str | None = None) -> Self | None:
        """Return it from `SPLIT=SHARE` each, as of `of`; None without one."""
        shares: dict[str, float] = {}
        for text in texts:
            name, _, share = text.partition("=")
            if name in shares:
                raise ConfigError(f"--hold-out names {name} twice: give one share for each split")
            try:
                shares[name] = float(share)
            except ValueError:
                raise ConfigError(f"--hold-out {text!r} is no SPLIT=SHARE, such as val=0.05") from None
        return cls.of(shares, group) if texts or group is not None else None

    @property
    def method(self) -> dict[str, Any]:
        """What decides the splits."""
        return {"shares": dict(self.shares), **({} if self.group is None else {"group": self.group})}

    def drawn(self, sha256: str) -> str:
        """Return the split of a group by its first sha256; what no share takes is `train`."""
        at = int(sha256_hex(f"hold out {sha256}".encode())[:_DRAW_DIGITS], 16) / 16**_DRAW_DIGITS
        # The order of the names is fixed, so that a further share leaves those before it as they were.
        for name in SPLITS[1:]:
            if (at := at - self.shares.get(name, 0.0)) < 0:
                return name
        return TRAIN


def _read_groups(path: Path) -> tuple[bytes, dict[str, str]]:
    where = f"--group {path}"
    if not path.is_file():
        raise ConfigError(
            f"{where} is neither {' nor '.join(GROUPS)}, nor a file: name a .parquet or .csv of key, group"
        )
    data = read_regular(path)
    try:
        if path.suffix.lower() == ".parquet":
            table = read_columns(data, _COLUMNS, where=where)
        else:
            options = pa.csv.ConvertOptions(column_types=dict.fromkeys(_COLUMNS, pa.string()))
            table = pa.csv.read_csv(pa.BufferReader(data), pa.csv.ReadOptions(use_threads=False), None, options)
        keys, groups = (table[name].cast(pa.string()).to_pylist() for name in _COLUMNS)
    except (pa.ArrowException, KeyError, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where} has no columns key and group that can be read ({error}): write it again") from error
    found = dict[str, str]()
    for key, group in zip(keys, groups, strict=True):
        if key and group and found.setdefault(key, group) != group:
            raise ConfigError(f"{where} has {key!r} in {found[key]!r} and in {group!r}: give each key one group")
    if not found:
        raise ConfigError(f"{where} has no row of a key and a group: write them, or leave --group out")
    return data, found


def unknown_split(location: RunLocation, splits: SplitRecord, name: str, remedy: str) -> ConfigError:
    """Return the error for a split that a run with `splits` does not have."""
    there = ", ".join(f"{split} ({num:,} images)" for split, num in splits.images.items() if split)
    return ConfigError(f"{location.root} has no split {name!r}, but {there or 'none'}: {remedy} one of these")


# The split of each image, by the number of its run and its id there; None for none.
Splits = Mapping[int, Mapping[str, str | None]]


def split_record(splits: Splits) -> SplitRecord:
    """Return what a header says of the splits of all images."""
    lines = [(at, image, split or "") for at, own in splits.items() for image, split in own.items()]
    counts = Counter(split for *_, split in lines)
    order = sorted(counts, key=lambda name: (name == "", SPLITS.index(name) if name in SPLITS else 9, name))
    digest = sha256_hex("\n".join(f"{at} {image} {split}" for at, image, split in lines).encode())
    return SplitRecord(images={name: counts[name] for name in order}, sha256=digest)


@dataclass(slots=True)
class _Group:
    """Pictures that belong together: their split, the place and key of the first, and the first sha256."""

    split: str | None
    first: tuple[int, str]
    sha256: str | None


class _Groups:
    """Joins pictures that share something; one that is alike to pictures of two splits joins none."""

    def __init__(self) -> None:
        # By token one above it, of the same group, or itself; by the topmost its group.
        self._above, self._groups = dict[Any, Any](), dict[Any, _Group]()
        # By token `asked`, the splits of pictures that have one, each with a key.
        self._given: dict[Any, dict[str, str]] = {}
        # Of each hash the place of a picture of its group, which is a token too.
        self._hashes, self._of_hash = NearHashes(), array("Q")

    def of(self, token: Any) -> _Group:
        """Return the group of a token that `add` knows."""
        return self._groups[self._top(token)]

    def add(
        self, own: _Group, splits: frozenset[str], alike: Sequence[Any], bits: int | None, asked: Sequence[str]
    ) -> str | None:
        """Add a picture that has `splits`, as the token `own.first`; or return the key of an image of a second split.

        Pictures of an equal token `alike` are a group, and so are those of hashes near its `bits`. So are those of a
        token `asked`, unless they have splits: of these each keeps its own.
        """
        tokens = [*alike, *(() if splits else asked)]
        at = self._hashes.near(bits) if bits is not None else np.empty(0, np.intp)
        near = set(np.frombuffer(self._of_hash, np.uint64)[at].tolist())
        tops = {self._top(each) for each in (*tokens, *near) if each in self._above}
        held = sorted((self._groups[each] for each in tops), key=lambda each: each.first)
        keys = {split: key for each in asked if not splits for split, key in self._given.get(each, {}).items()}
        keys |= {each.split: each.first[1] for each in held if each.split}
        if len(every := splits.union(keys)) > 1:
            return next((key for split, key in keys.items() if {split} != splits), own.first[1])
        several = sorted((own, *held), key=lambda each: each.first)
        sha256 = next(filter(None, (each.sha256 for each in several)), None)
        self._groups[own.first] = _Group(next(iter(every), None), several[0].first, sha256)
        self._above |= dict.fromkeys((own.first, *tops), own.first)
        for each in tokens:
            self._above.setdefault(each, own.first)
        if bits is not None:
            # Hashes near this one are of one group now: the next look-up finds one place for all.
            self._above[own.first[0]] = own.first
            np.frombuffer(self._of_hash, np.uint64)[at] = own.first[0]
            if not (np.frombuffer(self._hashes.values, np.uint64)[at] == bits).any():
                self._hashes.add(bits)
                self._of_hash.append(own.first[0])
        for each in asked if splits else ():
            self._given.setdefault(each, {}).setdefault(next(iter(splits)), own.first[1])
        return None

    def _top(self, at: Any) -> Any:
        while self._above[at] != at:
            at = self._above[at] = self._above[self._above[at]]
        return at


def split_images(images: Sequence[Picture], hold_out: HoldOut | None, left_out: LeftOutImages) -> Splits:
    """Return the splits of the `images`, in the order of their runs, that are not left out; leave out more of them.

    Without `hold_out` only what is alike to pictures that have a split gets one.
    """
    tiles = defaultdict[tuple[int, str], list[Picture]](list)
    for image in images:
        tiles[image.run, image.picture].append(image)
    if hold_out and hold_out.groups:
        left_out.ungrouped = sorted(hold_out.groups.keys() - {each for own in tiles.values() for each in _names(own)})
        if len(left_out.ungrouped) == len(hold_out.groups):
            keys = [image.key for image in images[:1]]
            raise ConfigError(f"--group: its file has no key of an image: give keys of the new run, such as {keys}")
    groups, tokens = _Groups(), dict[tuple[int, str], tuple[int, str]]()
    # Pictures that have a split come first, so that no other joins two of them.
    for place, own in sorted(enumerate(tiles.values()), key=lambda each: not any(tile.splits for tile in each[1])):
        first, splits = own[0], frozenset[str]().union(*(tile.splits for tile in own))
        bits = first.hash if hold_out and hold_out.group == "similar" else None
        alike = [] if first.sha256 is None else [bytes.fromhex(first.sha256)]
        group = _Group(None, (place, first.key), first.sha256)
        other = groups.add(group, splits, alike, bits, _asked(own, hold_out))
        if other is None:
            tokens[first.run, first.picture] = group.first
        else:
            for tile in own:
                left_out.add(LeftOutImage(tile.key, tile.run, tile.shard, other, "split", None))
    found = defaultdict[int, dict[str, str | None]](dict)
    for image in images:
        if (image.run, image.key) not in left_out.keys:
            group = groups.of(tokens[image.run, image.picture])
            drawn = hold_out.drawn(group.sha256) if hold_out and group.sha256 else None
            found[image.run][image.image_id] = group.split or drawn
    return found


def _asked(tiles: Sequence[Picture], hold_out: HoldOut | None) -> list[str]:
    """Return the folder of a picture, or its groups in the file, if asked for."""
    if hold_out is None:
        return []
    if hold_out.group == "folder":
        return [_names(tiles)[0].translate(_ENDS).rpartition("/")[0]]
    return list(dict.fromkeys(hold_out.groups[name] for name in _names(tiles) if name in hold_out.groups))


def _names(tiles: Sequence[Picture]) -> list[str]:
    """Return how a file of groups may name a picture: by it or a tile, encoded as keys are or not."""
    # One that was copied beside tiles has the name that it had in their SOURCE.
    names = (_OF_TILES.sub("", tiles[0].picture), *(name for tile in tiles for name in (tile.picture, tile.key)))
    return [each for name in dict.fromkeys(names) for each in dict.fromkeys((name, unquote(name)))]
