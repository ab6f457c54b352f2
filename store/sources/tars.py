"""Lists the image members of WebDataset tars from their headers, with the offset of their bytes. Called by `source`.

A tar is untrusted: memory must be bounded by one header, and a damaged tar must be refused, never listed in part.
"""

from __future__ import annotations

import io
import posixpath
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, Final, cast

from pseudoris.files.key_order import member_key, path_key
from pseudoris.files.storage import StoredFile
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import SourceConfig
from pseudoris.store.sources.items import LeftOut, SourceItem
from pseudoris.store.sources.root import SourceRoot

# A read of headers has this many bytes, enough for the small members before the next image and its header.
_WINDOW_BYTES: Final = 32 * 2**10
# The bytes behind the end of a tar are searched in pieces of at most this many bytes.
_CHUNK_BYTES: Final = 2**20
# A header with more bytes is refused, because it may claim exabytes. Those of real files have at most 64 KiB.
_MAX_HEADER_BYTES: Final = 2**20
# A tar may have at most this many global settings, because tarfile copies them to each member that follows.
_MAX_GLOBAL_SETTINGS: Final = 1_000
_HOSTILE: Final = (tarfile.TarError, ValueError, OverflowError, RecursionError)


def list_members(
    root: SourceRoot, file: StoredFile, config: SourceConfig, left_out: LeftOut | None = None
) -> Iterator[SourceItem]:
    """Yield the tar's image members in the tar's order, which is the order of reading them.

    Links, devices, sparse members and hidden names are skipped; other images that are not listed are counted in
    `left_out`. A member's name is part of a key and never used as a path: `../x.jpg` is allowed. From a tar in a bucket
    only headers are fetched, by windows of 32 KiB. Tars that were written behind one another are all listed.
    ConfigError if the tar is truncated, damaged, compressed or malicious, or other bytes follow it; TransientError if
    it changed since it was listed.
    """
    with root.open_listed(file, window_bytes=_WINDOW_BYTES) as stream:
        try:
            for member in _members(stream):
                name = posixpath.basename(member.name)
                is_plain = member.isreg() and not member.issparse() and not name.startswith(".")
                if is_plain and name.lower().endswith(config.extensions):
                    end = member.offset_data + member.size
                    # The member's size is compared with the tar's size, because an extended header may claim any size.
                    if member.size < 0 or (file.size_bytes is not None and end > file.size_bytes):
                        at = f"at byte {member.offset_data:,} of the tar"
                        raise tarfile.ReadError(f"a member of {member.size:,} bytes {at}")
                    yield SourceItem(
                        key=member_key(file.path, member.name),
                        size_bytes=member.size,
                        etag=file.etag,
                        mtime_ns=file.mtime_ns,
                        offset_bytes=member.offset_data,
                        boundary=path_key(file.path),
                    )
                elif left_out is not None and member.isreg():
                    left_out.count_member(member.name)
        except _HOSTILE as error:
            raise ConfigError(_damage(root, file, str(error))) from error
    # If the last header is truncated, tarfile raises no error, but the file's size is no multiple of a block.
    if file.size_bytes is not None and file.size_bytes % tarfile.BLOCKSIZE:
        raise ConfigError(_damage(root, file, "its size is not a multiple of 512 bytes"))


class _Headers:
    """A tar for tarfile to read: only headers, and none of an absurd size."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes; a read allocates its memory before it knows whether the bytes exist."""
        if not 0 <= size <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size:,} bytes, at most {_MAX_HEADER_BYTES:,} are allowed")
        return self._stream.read(size)


def _members(stream: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar, and of the tars behind its end marker."""
    headers = cast("BinaryIO", _Headers(stream))
    start: int | None = 0
    while start is not None:
        stream.seek(start)
        # `r:` refuses compressed tars, because a single member of such a tar cannot be read alone.
        with tarfile.open(fileobj=headers, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
            end = start
            while (member := tar.next()) is not None:
                # The offset must grow: a member of negative size would lead back to an earlier header, in a loop.
                if tar.offset <= end:
                    raise tarfile.ReadError(f"the member after byte {end:,} ends before it begins")
                if len(tar.pax_headers) > _MAX_GLOBAL_SETTINGS:
                    raise tarfile.ReadError(
                        f"more than the {_MAX_GLOBAL_SETTINGS:,} allowed global settings before byte {tar.offset:,}"
                    )
                end = tar.offset
                yield member
                # `members` is emptied, because tarfile keeps every header in it: millions for a large tar.
                tar.members = []  # type: ignore[attr-defined]
            end = tar.offset
        # tarfile stops at a damaged header, so the bytes behind its end are searched for lost members.
        following = _next_content(stream, end)
        if following == end and end > start:
            raise tarfile.ReadError(f"the header at byte {end:,} is damaged")
        if following == start:
            num_bytes = stream.seek(0, io.SEEK_END) - start
            raise tarfile.ReadError(f"{num_bytes:,} bytes behind its end marker, from byte {start:,}, are no tar")
        start = following


def _next_content(stream: BinaryIO, start: int) -> int | None:
    """Return the offset of the first block from `start` on that holds more than zeros; None if there is none."""
    stream.seek(start)
    # The first read is small, because most tars have only a few KiB of zeros at their end.
    size_bytes = 2 * tarfile.BLOCKSIZE
    while chunk := stream.read(size_bytes):
        rest = chunk.lstrip(b"\0")
        if rest:
            num_zeros = len(chunk) - len(rest)
            return start + num_zeros - num_zeros % tarfile.BLOCKSIZE
        start, size_bytes = start + len(chunk), min(4 * size_bytes, _CHUNK_BYTES)
    return None


def _damage(root: SourceRoot, file: StoredFile, reason: str) -> str:
    return (
        f"{root.describe(file.path)} cannot be listed as a tar ({reason}): it must be complete and not compressed. "
        "Repair it, or remove it from SOURCE"
    )
