"""WebDataset tars: their image members, found by walking the headers, with the place of their bytes."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator
from typing import Any

from pipeline.sources.items import SourceItem, Storage, StoredFile
from pipeline.sources.keys import member_key, path_key
from schemas.config import SourceConfig
from schemas.errors import ConfigError


def list_members(storage: Storage, file: StoredFile, config: SourceConfig) -> Iterator[SourceItem]:
    """Yield the tar's image members in the tar's order, which is the order of reading them.

    Images are regular members whose extension is listed and whose own name is not hidden; links, devices
    and sparse members are passed over. A member's name is a name in a key and never a path: `../x.jpg` is
    as good as any.

    Raises:
        ConfigError: The tar is cut short, damaged or compressed.
    """
    with storage.open(file.path) as stream:
        try:
            # `r:` refuses compression: a member of a compressed tar cannot be read alone.
            with tarfile.open(fileobj=stream, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
                yield from (_item(file, member) for member in _members(tar) if _is_image(member, config))
        except tarfile.TarError as error:
            raise ConfigError(_damage(storage, file, str(error))) from error
    # tarfile ends in silence where the last header is cut.
    if file.size_bytes is not None and file.size_bytes % tarfile.BLOCKSIZE:
        raise ConfigError(_damage(storage, file, "its size is no multiple of 512 bytes"))


def _members(tar: Any) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        yield member
        tar.members = []  # not declared by its type; it would keep every header of a tar of millions


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


def _damage(storage: Storage, file: StoredFile, reason: str) -> str:
    return (
        f"{storage.describe(file.path)} cannot be listed as a tar ({reason}): it must be whole and not compressed. "
        "Mend it, or leave it out of SOURCE"
    )
