"""Uris in the rows of a Parquet table: untrusted words that must not lead out of the folder they belong to."""

from __future__ import annotations

import posixpath
from typing import Final

from pipeline.sources.items import Storage
from pipeline.sources.opening import storage_at
from schemas.config import SourceConfig
from schemas.errors import ConfigError, ImageError
from store.uris import refuse_secrets

_LOCAL_PREFIXES: Final = ("file://", "local://")


def resolve_uri(uri: str, table: str, config: SourceConfig) -> tuple[Storage, str]:
    """Return the storage and the path below it that a row's uri names.

    A relative uri starts in `source.uri_root`, else in the table's folder; a local absolute one must lie in
    there. Other protocols are taken as they are.

    Args:
        uri: As it stands in the row.
        table: Full path or uri of the table.
        config: Its `uri_root` and `endpoint_url` are read.

    Raises:
        ImageError: `refused_uri` where it leaves the root, chains protocols, or carries a secret.
    """
    try:
        refuse_secrets(uri)
    except ConfigError:
        raise ImageError("refused_uri", "its uri carries credentials or a signature, which would expire") from None
    for prefix in _LOCAL_PREFIXES:
        uri = uri.removeprefix(prefix)
    if "://" in uri:
        return _resolve_remote(uri, config)
    root = storage_at(config.uri_root or posixpath.dirname(table), config)
    path = posixpath.normpath(uri)
    if path.startswith("/"):
        path = posixpath.relpath(path, root.describe())
    if path == ".." or path.startswith("../") or "\0" in path:
        raise ImageError("refused_uri", "its uri leads out of source.uri_root (else the table's folder): set that")
    return root, path


def _resolve_remote(uri: str, config: SourceConfig) -> tuple[Storage, str]:
    if "::" in uri:
        # `tar://…::file:///etc/…` would reach anything that fsspec can.
        raise ImageError("refused_uri", "its uri chains protocols with `::`")
    folder, _, name = uri.rpartition("/")
    try:
        return storage_at(folder, config), name
    except ConfigError:
        raise ImageError("refused_uri", "its uri has a protocol that is not known or not installed") from None
