"""Uris in the rows of a Parquet table: untrusted words that must not lead out of the folder they belong to."""

from __future__ import annotations

import ipaddress
import posixpath
import re
import socket
from typing import Final
from urllib.parse import urlsplit

from schemas.config import SourceConfig
from schemas.errors import ConfigError, ImageError
from schemas.placement import StorageConfig
from schemas.uris import refuse_secrets
from store.sources.items import Storage
from store.sources.opening import storage_at

_LOCAL_SCHEMES: Final = frozenset({"file", "local"})
_WEB_SCHEMES: Final = frozenset({"http", "https"})
# Closed: fsspec also knows protocols that read this machine (`dir`, `zip`, `git`) or other ones (`ssh`, `smb`).
_REMOTE_SCHEMES: Final = _WEB_SCHEMES | {"s3", "s3a", "gs", "gcs", "az", "abfs"}
# A path of Linux, and a name in it; a key of S3 has 1,024 bytes.
_MAX_URI_BYTES: Final = 4_095
_MAX_NAME_BYTES: Final = 255
# Other characters are normalised differently by those who check a host and those who connect to it.
_HOST: Final = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+")


def resolve_uri(uri: str, table: str, config: SourceConfig, limits: StorageConfig | None = None) -> tuple[Storage, str]:
    """Return the storage and the path below it that a row's uri names.

    A relative uri starts in `source.uri_root`, else in the table's folder; a local absolute one must lie in
    there. Of remote ones the protocol must be one of s3, s3a, gs, gcs, az, abfs, http and https, and a web
    host must not be this machine or an address of a private network. What a host's name resolves to, and
    where its server redirects to, is not looked at.

    Args:
        uri: As it stands in the row.
        table: Full path or uri of the table.
        config: Its `uri_root` and `endpoint_url` are read.
        limits: Time-outs and patience of an S3 store.

    Raises:
        ImageError: `refused_uri` where it leaves the root, names another protocol or such a host, chains
            protocols, carries a secret, is no text or too long, or names no place at all.
    """
    _refuse_unusable(uri)
    try:
        refuse_secrets(uri)
    except ConfigError:
        raise ImageError("refused_uri", "its uri carries credentials or a signature, which would expire") from None
    scheme, separator, rest = uri.partition("://")
    if "://" in rest or (separator and "::" in uri):
        # Of `file://file:///etc/…` one prefix would be left; `tar://…::file:///etc/…` reaches what fsspec can.
        raise ImageError("refused_uri", "its uri chains protocols: it may hold `://` once, and no `::` beside it")
    if separator and scheme.lower() not in _LOCAL_SCHEMES:
        return _resolve_remote(scheme.lower(), rest, config, limits)
    return _resolve_local(rest if separator else uri, table, config, limits)


def _refuse_unusable(uri: str) -> None:
    """Refuse words that a file system or a client would raise for: that would seem a fault of the storage."""
    try:
        size_bytes = len(uri.encode("utf-8"))
    except UnicodeEncodeError:
        raise ImageError("refused_uri", "its uri is not UTF-8") from None
    if size_bytes > _MAX_URI_BYTES:
        raise ImageError("refused_uri", f"its uri has {size_bytes:,} bytes, {_MAX_URI_BYTES:,} are allowed")


def _resolve_local(path: str, table: str, config: SourceConfig, limits: StorageConfig | None) -> tuple[Storage, str]:
    root = storage_at(config.uri_root or posixpath.dirname(table), config, limits)
    if any(len(name.encode("utf-8")) > _MAX_NAME_BYTES for name in path.split("/")):
        raise ImageError("refused_uri", f"its uri holds a name of more than {_MAX_NAME_BYTES} bytes")
    path = posixpath.normpath(path)
    if path.startswith("/"):
        path = posixpath.relpath(path, root.describe())
    if path == ".." or path.startswith("../") or "\0" in path:
        raise ImageError("refused_uri", "its uri leads out of source.uri_root (else the table's folder): set that")
    return root, path


def _resolve_remote(scheme: str, rest: str, config: SourceConfig, limits: StorageConfig | None) -> tuple[Storage, str]:
    if scheme not in _REMOTE_SCHEMES:
        allowed = ", ".join(sorted(_REMOTE_SCHEMES | _LOCAL_SCHEMES))
        raise ImageError("refused_uri", f"its uri has a protocol that is not one of {allowed}")
    if scheme in _WEB_SCHEMES:
        _refuse_inner_host(f"{scheme}://{rest}")
    folder, _, name = rest.rpartition("/")
    if not folder or not name:
        raise ImageError("refused_uri", "its uri names no file: give scheme://bucket/name")
    try:
        return storage_at(f"{scheme}://{folder}", config, limits), name
    except Exception as error:  # the image boundary: on hostile words fsspec's classes raise any type
        raise ImageError("refused_uri", "its uri cannot be opened: it is malformed, or a package is missing") from error


def _refuse_inner_host(uri: str) -> None:
    try:
        parts = urlsplit(uri)
        host, _ = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        host = ""
    if not _HOST.fullmatch(host):
        raise ImageError("refused_uri", "its uri names no host: letters, digits, `.`, `-` and `_`, or an IP address")
    address = _ip_address(host)
    if host == "localhost" or host.endswith(".localhost") or (address is not None and not address.is_global):
        raise ImageError("refused_uri", "its uri names a host of this machine or of a private network")


def _ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that a host is written as, None for a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            # Resolvers also read `127.1`, `0x7f000001` and `2130706433`.
            return ipaddress.IPv4Address(socket.inet_aton(host))
        except OSError:
            return None
    return getattr(address, "ipv4_mapped", None) or address
