"""WebDataset tars: lists the image members from the headers, with the offset of their bytes."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO, Final, cast

from pseudoris.schemas.config import SourceConfig
from pseudoris.schemas.errors import ConfigError
from pseudoris.store.files.key_order import member_key, path_key
from pseudoris.store.files.storage import StoredFile
from pseudoris.store.sources.items import SourceItem
from pseudoris.store.sources.root import SourceRoot

# Enough for the headers of a sample's smaller members, and of the next image.
_WINDOW_BYTES: Final = 32 * 2**10
# For long names and file attributes, which file systems limit to 64 KiB. A header may claim exabytes.
_MAX_HEADER_BYTES: Final = 2**20
# Global settings apply to all members that follow, and each member gets a copy of them.
_MAX_GLOBAL_SETTINGS: Final = 1_000
# The exceptions of tarfile for a malicious header.
_HOSTILE: Final = (tarfile.TarError, ValueError, OverflowError, RecursionError)


def list_members(root: SourceRoot, file: StoredFile, config: SourceConfig) -> Iterator[SourceItem]:
    """Yield the tar's image members in the tar's order, which is the order of reading them.

    Images are regular members whose extension is listed and whose own name is not hidden; links, devices and sparse
    members are skipped. A member's name is part of a key and never used as a path: `../x.jpg` is allowed.

    From a tar in a bucket only the headers are fetched: a window of 32 KiB each, or one for several small members.

    Memory is bounded by one header, whatever the tar claims.

    Raises:
        ConfigError: The tar is truncated, damaged, compressed or malicious.
        TransientError: It changed since it was listed, or the storage failed.
    """
    with root.open_listed(file, window_bytes=_WINDOW_BYTES) as stream:
        try:
            headers = cast("BinaryIO", _Headers(stream))
            # `r:` refuses compression: a member of a compressed tar cannot be read alone.
            with tarfile.open(fileobj=headers, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
                for member in _members(tar, stream):
                    if _is_image(member, config):
                        _check_place(member, file)
                        yield _item(file, member)
        except _HOSTILE as error:
            raise ConfigError(_damage(root, file, str(error))) from error
    # tarfile ends without an error if the last header is truncated.
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


def _members(tar: Any, stream: BinaryIO) -> Iterator[tarfile.TarInfo]:
    end = 0
    while (member := tar.next()) is not None:
        # A negative size leads backwards, in an endless loop.
        if tar.offset <= end:
            raise tarfile.ReadError(f"the member after byte {end:,} ends before it begins")
        if len(tar.pax_headers) > _MAX_GLOBAL_SETTINGS:
            raise tarfile.ReadError(
                f"more than the {_MAX_GLOBAL_SETTINGS:,} allowed global settings before byte {tar.offset:,}"
            )
        end = tar.offset
        yield member
        tar.members = []  # not declared by its type; it would keep every header of a tar of millions
    # tarfile takes a damaged header for the end, so all members after it would be lost without an error.
    stream.seek(tar.offset)
    if stream.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError(f"the header at byte {tar.offset:,} is damaged")


def _check_place(member: tarfile.TarInfo, file: StoredFile) -> None:
    """Accept a member that is inside its tar: extended headers may claim any size."""
    end = member.offset_data + member.size
    if member.size < 0 or (file.size_bytes is not None and end > file.size_bytes):
        raise tarfile.ReadError(f"a member of {member.size:,} bytes at byte {member.offset_data:,} of the tar")


def _is_image(member: tarfile.TarInfo, config: SourceConfig) -> bool:
    name = posixpath.basename(member.name)
    is_plain = member.isreg() and not member.issparse() and not name.startswith(".")
    return is_plain and name.lower().endswith(config.extensions)


def _item(file: StoredFile, member: tarfile.TarInfo) -> SourceItem:
    return SourceItem(
        key=member_key(file.path, member.name),
        size_bytes=member.size,
        etag=file.etag,
        mtime_ns=file.mtime_ns,
        offset_bytes=member.offset_data,
        boundary=path_key(file.path),
    )


def _damage(root: SourceRoot, file: StoredFile, reason: str) -> str:
    return (
        f"{root.describe(file.path)} cannot be listed as a tar ({reason}): it must be complete and not compressed. "
        "Repair it, or remove it from SOURCE"
    )
