"""Finds the pictures of several runs that are copies of an earlier one, for `combine --unique`, and lists them.

    _left_out.parquet     columns key, run, shard, copy_of, why, distance

Called by `parents.py`. A copy has the bytes of a picture that stays or, if asked, a perceptual hash within
`DEFAULT_MAX_DISTANCE` of its; what goes is compared with no other. All tiles of a picture stay or go together.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final, Literal, NamedTuple

import pyarrow as pa

from pseudoris.files.parquet_files import open_parquet, parquet_bytes
from pseudoris.images.perceptual_hash import DEFAULT_MAX_DISTANCE, HASH_BITS
from pseudoris.schemas.ids import image_id, sha256_hex
from pseudoris.schemas.run_records import PartRecord

LEFT_OUT_NAME: Final = "_left_out.parquet"
Unique = Literal["bytes", "similar"]
# Hashes within 7 bits agree in one quarter but for one bit.
_QUARTER_BITS: Final = HASH_BITS // 4
_QUARTER: Final = (1 << _QUARTER_BITS) - 1
_NEAR: Final = (0, *(1 << bit for bit in range(_QUARTER_BITS)))
# Of a picture of one colour: it has no frequency, or the lowest alone. Any two of them have such a hash.
_FLAT: Final = frozenset({0, 1 << (HASH_BITS - 1)})
_SCHEMA: Final = pa.schema(
    [
        pa.field("key", pa.string(), metadata={"doc": "Key that the image would have."}),
        pa.field("run", pa.int32(), metadata={"doc": "Number of its run among those given, from 0."}),
        pa.field("shard", pa.int64(), metadata={"doc": "Its shard there."}),
        pa.field("copy_of", pa.string(), metadata={"doc": "Key of the image that stays, or of a tile of it."}),
        pa.field("why", pa.string(), metadata={"doc": "`bytes`: they have the same bytes. `similar`: near hashes."}),
        pa.field("distance", pa.int32(), metadata={"doc": "Bits by which the hashes differ; null for `bytes`."}),
    ]
)


class LeftOutImage(NamedTuple):
    """An image that is not taken; the columns of the list."""

    key: str
    run: int
    shard: int
    copy_of: str
    why: str
    distance: int | None


class Picture(NamedTuple):
    """An image of a run: what it is a tile of, or itself; sha256 and perceptual hash of that, None if not known."""

    key: str
    run: int
    shard: int
    picture: str
    sha256: str | None
    phash: str | None


class NearHashes:
    """Perceptual hashes, each with a key; finds one within `DEFAULT_MAX_DISTANCE` bits, exactly, in no all-pairs loop.

    Four tables hold the hashes by a quarter of their bits. A query looks into 17 lists of each.
    """

    def __init__(self) -> None:
        self._keys: dict[int, Any] = {}
        self._tables: list[defaultdict[int, list[int]]] = [defaultdict(list) for _ in range(4)]

    def add(self, bits: int, key: Any) -> None:
        """Add a hash, unless it is there."""
        if bits not in self._keys:
            self._keys[bits] = key
            for number, table in enumerate(self._tables):
                table[bits >> number * _QUARTER_BITS & _QUARTER].append(bits)

    def nearest(self, bits: int) -> tuple[Any, int] | None:
        """Return the key of the nearest hash, the first added of equal ones, and the distance; None if none is near."""
        if bits in self._keys:
            return self._keys[bits], 0
        near = (
            table[place ^ flip]
            for number, table in enumerate(self._tables)
            for place in (bits >> number * _QUARTER_BITS & _QUARTER,)
            for flip in _NEAR
            if place ^ flip in table
        )
        found = min((((bits ^ other).bit_count(), other) for other in chain.from_iterable(near)), default=None)
        return None if found is None or found[0] > DEFAULT_MAX_DISTANCE else (self._keys[found[1]], found[0])


@dataclass(slots=True)
class LeftOutImages:
    """The images of some runs, numbered from 0, that are not taken.

    `ids` are theirs by the number of the run, `in_shards` how many there are by run and shard. `num_unknown` pictures
    have no hash to compare.
    """

    rows: list[LeftOutImage] = field(default_factory=list)
    ids: defaultdict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    in_shards: Counter[tuple[int, int]] = field(default_factory=Counter)
    num_unknown: int = 0

    @classmethod
    def of(cls, images: Iterable[Picture], prefixes: list[str], unique: Unique) -> LeftOutImages:
        """Return the copies among `images`; `prefixes` stand before the keys of each run.

        An image that could not be read has no bytes, and stays.
        """
        found, first, hashes = cls(), dict[bytes, tuple[int, str, str]](), NearHashes()
        judged: dict[tuple[int, str], tuple[str, str, int | None] | None] = {}
        for image in images:
            picture, key = (image.run, image.picture), f"{prefixes[image.run]}{image.key}"
            if picture not in judged and image.sha256 is not None:
                kept = first.get(bytes.fromhex(image.sha256))
                copy: tuple[str, str, int | None] | None = None if kept is None else (kept[2], "bytes", None)
                bits = None if image.phash is None else int(image.phash, 16)
                is_compared = unique == "similar" and copy is None
                found.num_unknown += is_compared and bits is None
                if is_compared and bits is not None and bits not in _FLAT and (near := hashes.nearest(bits)):
                    copy = near[0], "similar", near[1]
                if copy is None:
                    first[bytes.fromhex(image.sha256)] = (*picture, key)
                    if is_compared and bits is not None and bits not in _FLAT:
                        hashes.add(bits, key)
                judged[picture] = copy
            if (of := judged.get(picture)) is not None:
                found._add(LeftOutImage(key, image.run, image.shard, *of), prefixes)
        return found

    @classmethod
    def listed(cls, data: bytes, prefixes: list[str]) -> LeftOutImages:
        """Return the images of a list that was read."""
        found = cls()
        for row in open_parquet(pa.BufferReader(data), LEFT_OUT_NAME).read(use_threads=False).to_pylist():
            found._add(LeftOutImage(**row), prefixes)
        return found

    def _add(self, image: LeftOutImage, prefixes: list[str]) -> None:
        self.rows.append(image)
        self.ids[image.run].add(image_id(image.key.removeprefix(prefixes[image.run])))
        self.in_shards[image.run, image.shard] += 1

    def file(self) -> tuple[PartRecord, bytes]:
        """Return the list as a file, and the record of it."""
        columns: Iterator[Any] = zip(*self.rows, strict=True) if self.rows else iter([()] * len(_SCHEMA))
        arrays = [pa.array(each, kind.type) for each, kind in zip(columns, _SCHEMA, strict=True)]
        data = parquet_bytes([pa.Table.from_arrays(arrays, schema=_SCHEMA)], _SCHEMA)
        size, digest = len(data), sha256_hex(data)
        return PartRecord(name=LEFT_OUT_NAME, rows=len(self.rows), size_bytes=size, sha256=digest), data
