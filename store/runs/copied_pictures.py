"""Finds the pictures of several runs that are copies of an earlier one, for `combine --unique`, and lists them.

    _left_out.parquet     columns key, run, shard, copy_of, why, distance

Called by `combination.py`; reports have the copies in one run counted. A copy has the bytes of a picture that stays or,
if asked, a perceptual hash within `DEFAULT_MAX_DISTANCE` of its; what goes is compared with no other. All tiles of a
picture stay or go together.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pseudoris.files.location import RunLocation
from pseudoris.files.parquet_files import open_parquet, parquet_bytes
from pseudoris.images.perceptual_hash import DEFAULT_MAX_DISTANCE, HASH_BITS, perceptual_hash
from pseudoris.images.pixels import decode_upright
from pseudoris.primitives.errors import ConfigError, ImageError
from pseudoris.primitives.threads import map_in_threads
from pseudoris.schemas.ids import image_id, sha256_hex
from pseudoris.schemas.run_records import PartRecord, Receipt, RunHeader
from pseudoris.schemas.tables import EXPRESSIONS, IMAGES, STATUS_QUARANTINED
from pseudoris.store.tables.image_bytes import PlannedImages
from pseudoris.store.tables.open_run import OpenRun
from pseudoris.store.tables.parts import RowFilter, read_selected
from pseudoris.store.tables.proven_rows import prove_hashes

LEFT_OUT_NAME: Final = "_left_out.parquet"
Unique = Literal["bytes", "similar"]
# Of nine bands of a hash, those within 6 bits share three.
_BANDS: Final = 9
# Of a picture of one colour: it has no frequency, or the lowest alone. Any two of them have such a hash.
_FLAT: Final = frozenset({0, 1 << (HASH_BITS - 1)})
# Of more images no copies are counted: comparing so many takes 15 s of CPU and 1 GB (docs/records/scale.md).
MAX_COUNTED: Final = 1_000_000
_THREADS: Final = 4
_SCHEMA: Final = pa.schema(
    [
        pa.field("key", pa.string(), metadata={"doc": "Key that the image would have."}),
        pa.field("run", pa.int32(), metadata={"doc": "Number of its run among those given, from 0."}),
        pa.field("shard", pa.int64(), metadata={"doc": "Its shard there; null if it was left out of that run before."}),
        pa.field("copy_of", pa.string(), metadata={"doc": "Key of the image that stays, or of a tile of it."}),
        pa.field("why", pa.string(), metadata={"doc": "`bytes`: they have the same bytes. `similar`: near hashes."}),
        pa.field("distance", pa.int32(), metadata={"doc": "Bits by which the hashes differ; null for `bytes`."}),
    ]
)


class LeftOutImage(NamedTuple):
    """An image that is not taken; the columns of the list."""

    key: str
    run: int
    shard: int | None
    copy_of: str
    why: str
    distance: int | None


class Picture(NamedTuple):
    """An image of a run: what it is a tile of, or itself; sha256 and perceptual hash of that, None if not known.

    One that is quarantined has no annotation, so it stands for no other. `splits` are those that its run has it in.
    """

    key: str
    run: int
    shard: int
    picture: str
    sha256: str | None
    phash: str | None
    is_quarantined: bool = False
    splits: frozenset[str] = frozenset()

    @property
    def hash(self) -> int | None:
        """Its perceptual hash, as `hash_bits`."""
        return hash_bits(self.phash)


@dataclass(frozen=True, slots=True)
class CopyCounts:
    """How many images of a run are copies of an earlier one: those that `combine --unique similar` would leave out.

    Attributes:
        num_images: Images that are not quarantined; no other is counted.
        num_bytes: Of these, those with the bytes of an earlier one; None if the run is too large to compare.
        num_near: Those with other bytes, whose perceptual hash is near that of an earlier one; None if unknown of all.
        num_unknown: Images without a perceptual hash, of which it is unknown whether they are near copies.
    """

    num_images: int
    num_bytes: int | None
    num_near: int | None
    num_unknown: int

    def __str__(self) -> str:
        if self.num_bytes is None:
            return f"unknown: above {MAX_COUNTED:,} images they are not counted"
        near = f"near copies unknown of {self.num_unknown:,} without a perceptual hash"
        if self.num_near is not None:
            copies = "copy" if self.num_near == 1 else "copies"
            near = f"{self.num_near:,} near {copies}{'; ' + near if self.num_unknown else ''}"
        return f"{self.num_bytes:,} byte for byte, {near}"


class NearHashes:
    """Finds a perceptual hash within `DEFAULT_MAX_DISTANCE` bits among those that were added, exactly."""

    def __init__(self, hashes: Iterable[int]) -> None:
        """Find which of the `hashes`, all that will be added or asked for, are near; no loop goes over all pairs."""
        self._keys: dict[int, Any] = {}
        self._near: defaultdict[int, set[int]] = defaultdict(set)
        values = np.unique(np.fromiter(hashes, np.uint64))
        for shared in combinations(range(_BANDS), _BANDS - DEFAULT_MAX_DISTANCE):
            mask = np.uint64(sum(_bits_of(band) for band in shared))
            ordered = values[np.argsort(values & mask, kind="stable")]
            bands, at, step = ordered & mask, np.arange(len(ordered)), 0
            # Equal bands stand together: each step compares what is one place further apart, while bands are equal.
            while len(at := at[at < len(ordered) - (step := step + 1)]):
                at = at[bands[at] == bands[at + step]]
                one, other = ordered[at], ordered[at + step]
                is_near = np.bitwise_count(one ^ other) <= DEFAULT_MAX_DISTANCE
                for pair in zip(one[is_near].tolist(), other[is_near].tolist(), strict=True):
                    self._near[pair[0]].add(pair[1])
                    self._near[pair[1]].add(pair[0])

    def add(self, bits: int, key: Any) -> None:
        """Add a hash with a key, unless it is there."""
        self._keys.setdefault(bits, key)

    def nearest(self, bits: int) -> tuple[Any, int] | None:
        """Return the key of the nearest hash that was added, and the distance; None if none is near."""
        others = (other for other in self.near(bits) if other in self._keys)
        found = min((((bits ^ other).bit_count(), other) for other in others), default=None)
        return None if found is None else (self._keys[found[1]], found[0])

    def near(self, bits: int) -> tuple[int, ...]:
        """Return a hash, and those near it."""
        return bits, *self._near.get(bits, ())


def hash_bits(phash: str | None) -> int | None:
    """Return a perceptual hash as a number; None for none, or for one that pictures of one colour share."""
    bits = None if phash is None else int(phash, 16)
    return None if bits in _FLAT else bits


def _bits_of(band: int) -> int:
    """Return the bits of one of the bands, which divide a hash."""
    first, end = (HASH_BITS * edge // _BANDS for edge in (band, band + 1))
    return (1 << end) - (1 << first)


@dataclass(slots=True)
class LeftOutImages:
    """The images of some runs, numbered from 0, that are not taken; `prefixes` stand before the keys of each run.

    `ids` are theirs by the number of the run, `in_shards` how many there are by run and shard; what a run had left out
    before has a row alone. `num_unknown` pictures have no hash to compare.
    """

    prefixes: list[str]
    rows: list[LeftOutImage] = field(default_factory=list)
    ids: defaultdict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    in_shards: Counter[tuple[int, int]] = field(default_factory=Counter)
    num_unknown: int = 0

    def add_copies(self, images: Sequence[Picture], hashes: NearHashes | None = None) -> None:
        """Add the copies among `images`; one that could not be read has no bytes, and stays.

        With `hashes`, those of all images, near copies too.
        """
        first = dict[bytes, tuple[int, str, str]]()
        judged: dict[tuple[int, str], tuple[str, str, int | None] | None] = {}
        for image in images:
            picture, key = (image.run, image.picture), f"{self.prefixes[image.run]}{image.key}"
            if picture not in judged and image.sha256 is not None:
                kept = first.get(bytes.fromhex(image.sha256))
                copy: tuple[str, str, int | None] | None = None if kept is None else (kept[2], "bytes", None)
                bits, is_compared = image.hash, hashes is not None and copy is None
                self.num_unknown += is_compared and image.phash is None and not image.is_quarantined
                if is_compared and hashes and bits is not None and (near := hashes.nearest(bits)):
                    copy = near[0], "similar", near[1]
                if copy is None:
                    if image.is_quarantined:
                        continue
                    first[bytes.fromhex(image.sha256)] = (*picture, key)
                    if is_compared and hashes and bits is not None:
                        hashes.add(bits, key)
                judged[picture] = copy
            if (of := judged.get(picture)) is not None:
                self.add(LeftOutImage(key, image.run, image.shard, *of))

    def add_list(self, data: bytes, of_run: int | None = None) -> None:
        """Add the images of a list that was read: of the new run, or of the one of that number."""
        for row in open_parquet(pa.BufferReader(data), LEFT_OUT_NAME).read(use_threads=False).to_pylist():
            if of_run is not None:
                keys = {name: f"{self.prefixes[of_run]}{row[name]}" for name in ("key", "copy_of")}
                row |= {**keys, "run": of_run, "shard": None}
            self.add(LeftOutImage(**row))

    def add(self, image: LeftOutImage) -> None:
        """Add an image, unless it is left out already."""
        if image_id(image.key.removeprefix(self.prefixes[image.run])) in self.ids[image.run]:
            return
        self.rows.append(image)
        if image.shard is not None:
            self.ids[image.run].add(image_id(image.key.removeprefix(self.prefixes[image.run])))
            self.in_shards[image.run, image.shard] += 1

    def file(self) -> tuple[PartRecord, bytes]:
        """Return the list as a file, and the record of it."""
        columns: Iterator[Any] = zip(*self.rows, strict=True) if self.rows else iter([()] * len(_SCHEMA))
        arrays = [pa.array(each, kind.type) for each, kind in zip(columns, _SCHEMA, strict=True)]
        data = parquet_bytes([pa.Table.from_arrays(arrays, schema=_SCHEMA)], _SCHEMA)
        size, digest = len(data), sha256_hex(data)
        return PartRecord(name=LEFT_OUT_NAME, rows=len(self.rows), size_bytes=size, sha256=digest), data


def pictures_of(
    at: int,
    location: RunLocation,
    header: RunHeader,
    receipts: Iterable[Receipt],
    moved: Mapping[str, str] | None = None,
    *,
    is_hashed: bool,
) -> Iterator[Picture]:
    """Yield the images of a run, number `at`; where its table lacks a hash and `is_hashed`, from SOURCE.

    `moved` says where they are now, as of `PlannedImages`. What cannot be read has no hash.
    """
    images = PlannedImages(location, header, source=moved)
    for receipt, table in _hashes_of(location, receipts, "image_id", "split"):
        name, limits = receipt.parts[IMAGES].name, header.of_shard(receipt.shard).config.images
        rows = table.to_pylist()
        phashes = {row["key"]: row["picture_phash"] or row["phash"] for row in rows}
        lacking = [row for row in rows if row["status"] != STATUS_QUARANTINED and phashes[row["key"]] is None]
        if is_hashed and lacking:
            data = read_selected(location, IMAGES, name, ["key", "bytes"]).to_pylist()
            held = {row["key"]: row["bytes"] for row in data}
            wanted = [(row["key"], row["sha256"], held[row["key"]]) for row in lacking]
            # If SOURCE is gone, so are the other images of the shard.
            with suppress(ConfigError):
                for row, outcome in zip(lacking, images.outcomes(receipt.shard, wanted), strict=True):
                    with suppress(ImageError):
                        if not isinstance(outcome, ImageError):
                            phashes[row["key"]] = perceptual_hash(decode_upright(outcome, limits))
        said = read_selected(location, EXPRESSIONS, receipt.parts[EXPRESSIONS].name, ["image_id", "split"], _in_split())
        splits = {row["image_id"]: {row["split"]} for row in rows if row["split"]}
        for image, split in zip(said["image_id"].to_pylist(), said["split"].to_pylist(), strict=True):
            splits.setdefault(image, set()).add(split)
        for row in rows:
            known = splits.get(row["image_id"], ())
            yield _picture(row, at, receipt.shard)._replace(phash=phashes[row["key"]], splits=frozenset(known))


def _picture(row: Mapping[str, Any], at: int, shard: int) -> Picture:
    picture, sha256 = row["picture"] or row["key"], row["picture_sha256"] or row["sha256"]
    phash = row["picture_phash"] or row["phash"]
    return Picture(row["key"], at, shard, picture, sha256, phash, row["status"] == STATUS_QUARANTINED)


def _hashes_of(location: RunLocation, receipts: Iterable[Receipt], *more: str) -> Iterator[tuple[Receipt, pa.Table]]:
    columns = ["key", "status", "sha256", "phash", "picture", "picture_sha256", "picture_phash", *more]

    def read(receipt: Receipt) -> tuple[Receipt, pa.Table]:
        table = read_selected(location, IMAGES, receipt.parts[IMAGES].name, columns)
        prove_hashes(table, where=f"shard {receipt.shard} of {location.root}")
        return receipt, table

    return map_in_threads(read, receipts, _THREADS)


def count_copies(run: OpenRun) -> CopyCounts:
    """Return how many images of the committed shards are copies, by what the tables hold; no image is read.

    ConfigError if a part is missing or damaged, or another version of the package wrote it.
    """
    num_images = sum(receipt.counts.num_shown for receipt in run.receipts)
    if num_images > MAX_COUNTED:
        return CopyCounts(num_images, None, None, 0)
    tables = _hashes_of(run.location, run.receipts)
    read = (_picture(row, 0, receipt.shard) for receipt, table in tables for row in table.to_pylist())
    pictures = [each for each in read if not each.is_quarantined]
    found = LeftOutImages([""])
    found.add_copies(pictures, NearHashes(each.hash for each in pictures if each.hash is not None))
    whys = Counter(row.why for row in found.rows)
    has_hashes = not pictures or any(each.phash for each in pictures)
    return CopyCounts(num_images, whys["bytes"], whys["similar"] if has_hashes else None, found.num_unknown)


def _in_split() -> RowFilter:
    # Made at its use: a condition loads pandas. Parts without a split are skipped by their statistics.
    return RowFilter(pc.field("split").is_valid(), ("split",))
