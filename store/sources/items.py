"""What a listing yields: an image of SOURCE and its place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SourceItem:
    """One listed input image.

    Attributes:
        key: Percent-encoded, relative to SOURCE's root: `a/b.jpg`, `tar!member`, `file#row`.
        size_bytes: Size of the encoded image; None for Parquet rows and broken links.
        etag: Etag of the object that holds it; None on disk.
        mtime_ns: Modification time of the file that holds it; None on object stores.
        offset_bytes: Offset of a member's data in its tar; None for other images.
        row_group: Row group in its Parquet file; None for other images.
        row: Row in its Parquet file, from 0; None for other images.
        boundary: A shard only holds items with the same boundary: a tar's key, or a Parquet file's key and row group;
            None for plain files.
        mean_bytes: Mean bytes of a row of its row group, by the footer; None for uris and other images.
    """

    key: str
    size_bytes: int | None = None
    etag: str | None = None
    mtime_ns: int | None = None
    offset_bytes: int | None = None
    row_group: int | None = None
    row: int | None = None
    boundary: str | None = None
    mean_bytes: int | None = None

    @property
    def expected_bytes(self) -> int:
        """Expected size of the encoded image; 0 if it is unknown."""
        return self.size_bytes or self.mean_bytes or 0
