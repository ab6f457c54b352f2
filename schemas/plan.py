"""One row of the frozen plan: an input image, its shard, and how it was listed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PlanEntry:
    """A planned input image; the columns of `tables.PLAN_SCHEMA`.

    Attributes:
        shard: Number of the shard, from 0.
        position: Position in the shard, from 0.
        image_id: `ids.image_id(key)`.
        key: Percent-encoded key relative to SOURCE: `a/b.jpg`, `tar!member`, `file#row`.
        size_bytes: Listed size of the encoded image; None where the listing does not say (Parquet rows).
        etag: Etag of the object that holds it (the tar, the Parquet file); None on disk.
        mtime_ns: Modification time of the file that holds it; None on object stores.
        offset_bytes: Where a member's data starts in its tar; else None.
        row_group: Row group of its Parquet file; else None.
        row: Row of its Parquet file, from 0; else None.
    """

    shard: int
    position: int
    image_id: str
    key: str
    size_bytes: int | None = None
    etag: str | None = None
    mtime_ns: int | None = None
    offset_bytes: int | None = None
    row_group: int | None = None
    row: int | None = None
