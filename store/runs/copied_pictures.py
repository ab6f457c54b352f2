"""Finds the pictures of several runs that are copies of an earlier one, for `combine --unique`, and lists them.

    _left_out.parquet     columns key, run, shard, copy_of, why, distance

Called by `combination.py`; reports have the copies in one run counted. A copy has the bytes of a picture that stays or,
if asked, a perceptual hash within `DEFAULT_MAX_DISTANCE` of its; what goes is compared with no other. All tiles of a
picture stay or go together.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Final, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pseudoris.files.location import RunLocation
from pseudoris.files.parquet_files import open_parquet, parquet_bytes
from pseudoris.images.perceptual_hash import DEFAULT_MAX_DISTANCE, HASH_BITS
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.threads import map_in_threads
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.run_records import PartRecord, RunHeader
from pseudoris.schemas.tables import EXPRESSIONS, IMAGES, STATUS_QUARANTINED
from pseudoris.store.tables.image_bytes import PlannedImages
from pseudoris.store.tables.open_run import CommittedShard, OpenRun
from pseudoris.store.tables.parts import RowFilter
from pseudoris.store.tables.proven_rows import prove_hashes

LEFT_OUT_NAME: Final = "_left_out.parquet"
Unique = Literal["bytes", "similar"]
# Of these bands of a hash, each every seventh bit, those within 6 bits share one.
_STEP: Final = DEFAULT_MAX_DISTANCE + 1
_BANDS: Final = [sum(1 << bit for bit in range(first, HASH_BITS, _STEP)) for first in range(_STEP)]
_Alike = tuple["array[int]", "array[int]"]
# Of a picture of one colour: it has no frequency, or the lowest alone. Any two of them have such a hash.
_FLAT: Final = frozenset({0, 1 << (HASH_BITS - 1)})
# Of more images no copies are counted: comparing so many takes 57 s of CPU and 1 GB (docs/records/scale.md).
MAX_COUNTED: Final = 1_000_000
_THREADS: Final = 4
_COLUMNS: Final = ("key", "status", "sha256", "phash", "picture", "picture_sha256", "picture_phash")
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
    """An image by its new key: what it is a tile of, or itself; sha256 and perceptual hash of that, if known.

    A quarantined one has no annotation, so it stands for no other. `image_id` and `splits` are those in its own run.
    """

    key: str
    run: int
    shard: int
    picture: str
    sha256: str | None
    phash: str | None
    is_quarantined: bool
    image_id: str = ""
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
        num_bytes: Those with the bytes of an earlier one; None if the run is too large to compare.
        num_near: Those with other bytes and a hash near that of an earlier one; None if unknown of all.
        num_unknown: Those without a perceptual hash, which may be near copies.
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
    """Finds those of the perceptual hashes added so far that are within `DEFAULT_MAX_DISTANCE` bits, exactly.

    One is compared with all those that share a band, which lie side by side with their places; no pair is held.
    """

    def __init__(self, hashes: Iterable[int] = ()) -> None:
        self.values = array("Q")
        self._held = [defaultdict[int, _Alike](lambda: (array("Q"), array("I"))) for _ in _BANDS]
        for bits in hashes:
            self.add(bits)

    def add(self, bits: int) -> None:
        """Add a hash to `values`."""
        for mask, held in zip(_BANDS, self._held, strict=True):
            values, places = held[bits & mask]
            values.append(bits)
            places.append(len(self.values))
        self.values.append(bits)

    def near(self, bits: int) -> NDArray[np.integer]:
        """Return the places in `values` of those near a hash; a place may come more than once."""
        alike = [held[bits & mask] for mask, held in zip(_BANDS, self._held, strict=True) if bits & mask in held]
        # Where hashes lie close, their bands are alike: it is less work to compare all.
        if 2 * sum(len(values) for values, _ in alike) > len(self.values):
            return np.flatnonzero(_is_near(bits, self.values))
        if not alike or not (is_near := _is_near(bits, *(values for values, _ in alike))).any():
            return np.empty(0, np.uint32)
        return np.concatenate([np.frombuffer(places, np.uint32) for _, places in alike])[is_near]


def _is_near(bits: int, *several: array[int]) -> NDArray[np.bool_]:
    values = np.concatenate([np.frombuffer(each, np.uint64) for each in several])
    return np.asarray(np.bitwise_count(values ^ np.uint64(bits)) <= DEFAULT_MAX_DISTANCE)


def hash_bits(phash: str | None) -> int | None:
    """Return a perceptual hash as a number; None for none, or for one that pictures of one colour share."""
    bits = None if phash is None else int(phash, 16)
    return None if bits in _FLAT else bits


@dataclass(slots=True)
class LeftOutImages:
    """The images of some runs that are not taken: `rows` of the list, and (run, key) of those that the runs have.

    `num_unknown` pictures have no hash to compare; `ungrouped` are the keys in a file of groups that name no image.
    """

    rows: list[LeftOutImage] = field(default_factory=list)
    keys: set[tuple[int, str]] = field(default_factory=set)
    num_unknown: int = 0
    ungrouped: Sequence[str] = ()

    def add_copies(self, images: Sequence[Picture], *, is_similar: bool) -> None:
        """Add the copies among `images`, if `is_similar` near copies of those kept too; one without bytes stays."""
        first, kept, hashes = dict[bytes, str](), dict[int, str](), NearHashes()
        judged: dict[tuple[int, str], tuple[str, str, int | None] | None] = {}
        for image in images:
            picture = image.run, image.picture
            if picture not in judged and image.sha256 is not None:
                digest, bits = bytes.fromhex(image.sha256), image.hash
                copy: tuple[str, str, int | None] | None = None
                if digest in first:
                    copy = first[digest], "bytes", None
                elif is_similar:
                    self.num_unknown += image.phash is None and not image.is_quarantined
                    if bits is not None and (near := [hashes.values[at] for at in hashes.near(bits)]):
                        distance, nearest = min(((bits ^ each).bit_count(), each) for each in near)
                        copy = kept[nearest], "similar", distance
                if copy is None:
                    if image.is_quarantined:
                        continue
                    first[digest] = image.key
                    if bits is not None and is_similar:
                        kept[bits] = image.key
                        hashes.add(bits)
                judged[picture] = copy
            if (of := judged.get(picture)) is not None:
                self.add(LeftOutImage(image.key, image.run, image.shard, *of))

    def add_list(self, data: bytes, of_run: int | None = None, prefix: str = "") -> None:
        """Add the images of a list that was read: of the new run, or of the one of that number, with the `prefix`."""
        for row in open_parquet(pa.BufferReader(data), LEFT_OUT_NAME).read(use_threads=False).to_pylist():
            if of_run is not None:
                row |= {name: f"{prefix}{row[name]}" for name in ("key", "copy_of")} | {"run": of_run, "shard": None}
            self.add(LeftOutImage(**row))

    def add(self, image: LeftOutImage) -> None:
        """Add an image, unless it is left out already."""
        if (place := (image.run, image.key)) not in self.keys:
            self.rows.append(image)
            if image.shard is not None:
                self.keys.add(place)

    def file(self) -> tuple[PartRecord, bytes]:
        """Return the list as a file, and the record of it."""
        table = pa.Table.from_pylist([row._asdict() for row in self.rows], _SCHEMA)
        data = parquet_bytes([table], _SCHEMA)
        size, digest = len(data), sha256_hex(data)
        return PartRecord(name=LEFT_OUT_NAME, rows=len(self.rows), size_bytes=size, sha256=digest), data


def read_left_out(location: RunLocation, header: RunHeader) -> bytes | None:
    """Return the list of a run, None if it has none; ConfigError if it is missing, or is not what the header names."""
    due, data = header.left_out, location.read_if_there(LEFT_OUT_NAME)
    if due is not None and (data is None or sha256_hex(data) != due.sha256):
        found = "is missing" if data is None else "was changed: its sha256 is not the one that the header names"
        again = f"run the `pseudoris {header.origin}` command again with --repair, or restore it from a copy"
        raise ConfigError(f"{location.uri(LEFT_OUT_NAME)} {found}: {again}")
    return None if due is None else data


def pictures_of(
    shards: Iterable[CommittedShard],
    *,
    run: int = 0,
    prefix: str = "",
    images: PlannedImages | None = None,
    has_splits: bool = False,
) -> Iterator[Picture]:
    """Yield the images of the run with this number, whose keys get the `prefix`; their splits if `has_splits`.

    With `images`, a hash that the tables lack is computed, if it can be. ConfigError if a part is missing or damaged.
    """

    def read(shard: CommittedShard) -> list[Picture]:
        table = shard.table(IMAGES, (*_COLUMNS, "image_id", "split") if has_splits else _COLUMNS)
        prove_hashes(table, where=str(shard))
        rows, splits = table.to_pylist(), defaultdict[str | None, set[str]](set)
        hashes = {row["key"]: row["picture_phash"] or row["phash"] for row in rows}
        lacking = [row for row in rows if hashes[row["key"]] is None and row["status"] != STATUS_QUARANTINED]
        if images is not None and lacking:
            # If SOURCE is gone, so are the other images of the shard.
            with suppress(ConfigError):
                hashes |= images.phashes(shard, lacking)
        if has_splits:
            # Made at its use: a condition loads pandas. Parts without a split are skipped by their statistics.
            said = shard.table(EXPRESSIONS, ("image_id", "split"), RowFilter(pc.field("split").is_valid(), ("split",)))
            for row in (*rows, *said.to_pylist()):
                if row["split"]:
                    splits[row["image_id"]].add(row["split"])
        return [
            Picture(
                key=f"{prefix}{row['key']}",
                run=run,
                shard=shard.receipt.shard,
                picture=f"{prefix}{row['picture'] or row['key']}",
                sha256=row["picture_sha256"] or row["sha256"],
                phash=hashes[row["key"]],
                is_quarantined=row["status"] == STATUS_QUARANTINED,
                image_id=row.get("image_id", ""),
                splits=frozenset(splits.get(row.get("image_id"), ())),
            )
            for row in rows
        ]

    return chain.from_iterable(map_in_threads(read, shards, _THREADS))


def count_copies(run: OpenRun) -> CopyCounts:
    """Return how many images of the committed shards are copies, by what the tables hold; no image is read.

    ConfigError if a part is missing or damaged, or another version of the package wrote it.
    """
    num_images = sum(receipt.counts.num_shown for receipt in run.receipts)
    if num_images > MAX_COUNTED:
        return CopyCounts(num_images, None, None, 0)
    pictures = [each for each in pictures_of(run.shards()) if not each.is_quarantined]
    found = LeftOutImages()
    found.add_copies(pictures, is_similar=True)
    whys = Counter(row.why for row in found.rows)
    has_hashes = not pictures or any(each.phash for each in pictures)
    return CopyCounts(num_images, whys["bytes"], whys["similar"] if has_hashes else None, found.num_unknown)
