"""The root of SOURCE, which keys are relative to: its storage, and the meaning of its errors.

Called by `store` and `interchange`. Uris in the rows of a Parquet table lead to roots too. They are untrusted
text, and must not lead out of their folder, to this machine or to a private network.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Final
from urllib.parse import urlsplit

from pseudoris.files.location import LOCAL_PROTOCOLS, local_path, storage_at
from pseudoris.files.storage import Kind, Storage, StoredFile, listing_errors, shown_uri, transient_faults
from pseudoris.primitives.errors import ConfigError, ImageError, RefusedError, TransientError
from pseudoris.primitives.untrusted import without_secrets
from pseudoris.primitives.uris import ip_address_of, secret_in
from pseudoris.schemas.config import SourceConfig, StorageConfig


@dataclass(frozen=True, slots=True)
class SourceRoot:
    """A storage of input. Can be pickled.

    `kind`, `read` and `open_listed` raise a `ConfigError` for what the user must correct. `stat` and `open` are about
    one image: its fault is an `ImageError` or FileNotFoundError, every other fault a `TransientError`. Denied access is
    a `RefusedError`: it may be either.
    """

    storage: Storage

    @property
    def store(self) -> str:
        """The kind of store, such as `s3`, `web` or `disk`: its objects are read with the same credentials."""
        protocol, separator, _ = self.storage.uri().partition("://")
        return ("web" if protocol in ("http", "https") else protocol) if separator else "disk"

    def describe(self, path: str = "") -> str:
        """Return the full path or uri for messages, not to read from: links are masked."""
        uri = shown_uri(self.storage.uri(path))
        # Spaces are encoded first, because masking ends a link at a space and would show a secret after the space.
        return without_secrets(uri.replace(" ", "%20")) if "://" in uri else uri

    def kind(self, path: str) -> Kind:
        """Return what stands at `path`."""
        with listing_errors("look at", self.describe(path), faults=self.storage.faults):
            return self.storage.kind(path)

    def read(self, path: str) -> bytes:
        """Return a whole file, before a run starts. Raises: FileNotFoundError: there is none."""
        with listing_errors("read", self.describe(path), faults=self.storage.faults):
            return self.storage.read(path)

    def stat(self, path: str) -> StoredFile:
        """Return the file's present state. Raises like `open`, but `changed`."""
        with transient_faults("look at", self.describe(path), faults=self.storage.faults):
            return self.storage.stat(path)

    @contextmanager
    def open(self, path: str, expected: StoredFile | None = None, *, window_bytes: int = 0) -> Iterator[BinaryIO]:
        """Open a file for a block, by default its present version, else with the etag, time and size of `expected`.

        None in `expected` is not checked. At least `window_bytes` of it are fetched at once, for many small reads that
        are close together.

        Raises:
            ImageError: `changed`, at the latest at the end of the block: what was read must not be used; `unreadable`.
            FileNotFoundError: There is none.
            RefusedError: Access is denied.
        """
        with ExitStack() as stack:
            stack.enter_context(transient_faults("read", self.describe(path), faults=self.storage.faults))
            if expected is None:
                opening: AbstractContextManager[BinaryIO] = self.storage.open(path)
            else:
                opening = self.storage.open_version(path, expected, window_bytes=window_bytes)
            yield stack.enter_context(opening)

    @contextmanager
    def open_listed(self, file: StoredFile, *, window_bytes: int) -> Iterator[BinaryIO]:
        """Open a file that was just listed, for the block; TransientError if it changed since, or the storage failed.

        ConfigError if it vanished or cannot be opened: its images are not known, so none can be quarantined.
        """
        uri = self.describe(file.path)
        try:
            with self.open(file.path, file, window_bytes=window_bytes) as stream:
                yield stream
        except ImageError as error:
            if error.reason == "changed":
                raise TransientError(f"{uri} changed while it was being listed: run the same command again") from error
            raise ConfigError(f"{uri} cannot be opened ({error}): repair it, or remove it from SOURCE") from error
        except RefusedError as error:
            raise ConfigError(
                f"access to {uri} is denied: grant these credentials, or this user, the right to read it, or remove it "
                "from SOURCE"
            ) from error
        except FileNotFoundError as error:
            if file.size_bytes is None:
                raise ConfigError(f"{uri} is a link that leads nowhere: repair it, or remove it from SOURCE") from error
            raise ConfigError(f"{uri} vanished while SOURCE was listed: run the same command again") from error


def root_at(location: str, config: SourceConfig, limits: StorageConfig | None = None) -> SourceRoot:
    """Return the root at a local path, whose links are followed, or an fsspec url. Raises as `storage_at`."""
    folder = local_path(location)
    # `Path.resolve` is not used, because it raises an error for a link to itself.
    resolved = location if folder is None else os.path.realpath(folder)
    return SourceRoot(storage_at(resolved, config.endpoint_url, limits, requester_pays=config.requester_pays))


_WEB_SCHEMES: Final = frozenset({"http", "https"})
# Only these schemes are allowed, because fsspec has others that read this machine (`dir`, `git`) or hosts (`ssh`).
REMOTE_SCHEMES: Final = _WEB_SCHEMES | {"s3", "s3a", "gs", "gcs", "az", "abfs"}
# A uri, and a name in it, may have at most this many bytes. These are the limits of Linux.
_MAX_URI_BYTES: Final = 4_095
_MAX_NAME_BYTES: Final = 255
# A host may have only these characters, because the client may normalise others in another way than our check.
_HOST: Final = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+")


def resolve_uri(
    uri: str, table: str, config: SourceConfig, limits: StorageConfig | None = None
) -> tuple[SourceRoot, str]:
    """Return the root and the path below it that a row's uri names; `table` is the full path or uri of the row's table.

    A relative uri starts in `source.uri_root`, or else in the table's folder; a local absolute uri must be inside that
    folder. A remote uri must have one of the protocols s3, s3a, gs, gcs, az, abfs, http and https, and a web host must
    not be this machine or an address of a private network. The addresses that a host name resolves to, and the
    redirects of its server, are not checked. ImageError (`refused_uri`) for any other uri, and for one that chains
    protocols, contains a secret, is not text, is too long, or names no file.
    """
    # Bad uris are refused here, because a later error of a client would look like a fault of the storage.
    try:
        size_bytes = len(uri.encode("utf-8"))
    except UnicodeEncodeError:
        raise ImageError("refused_uri", "the uri is not UTF-8") from None
    if size_bytes > _MAX_URI_BYTES:
        raise ImageError("refused_uri", f"the uri has {size_bytes:,} bytes; at most {_MAX_URI_BYTES:,} are allowed")
    # A uri with a query is allowed, because uris of rows are not stored, and messages show them without the query.
    if secret_in(uri, None):
        raise ImageError("refused_uri", "the uri carries credentials")
    scheme, separator, rest = uri.partition("://")
    if "://" in rest or (separator and "::" in uri):
        # Chained protocols could read a local file, as `tar://…::file:///etc/…` or `file://file:///etc/…`.
        raise ImageError("refused_uri", "the uri chains protocols: `://` may occur once, and `::` not at all")
    if separator and scheme.lower() not in LOCAL_PROTOCOLS:
        return _resolve_remote(scheme.lower(), rest, config, limits)
    # A web table's query is cut off first, because it may hold slashes. In a bucket, `?` is an ordinary character.
    place = re.split("[?#]", table)[0] if table.startswith(("http://", "https://")) else table
    root, path = root_at(config.uri_root or posixpath.dirname(place), config, limits), rest if separator else uri
    if any(len(name.encode("utf-8")) > _MAX_NAME_BYTES for name in path.split("/")):
        raise ImageError("refused_uri", f"the uri holds a name of more than {_MAX_NAME_BYTES} bytes")
    path = posixpath.normpath(path)
    if path.startswith("/"):
        path = posixpath.relpath(path, root.storage.uri())
    if path == ".." or path.startswith("../") or "\0" in path:
        raise ImageError("refused_uri", "the uri leaves source.uri_root (default: the table's folder); set it")
    return root, path


def _resolve_remote(
    scheme: str, rest: str, config: SourceConfig, limits: StorageConfig | None
) -> tuple[SourceRoot, str]:
    if scheme not in REMOTE_SCHEMES:
        allowed = ", ".join(sorted({*REMOTE_SCHEMES, *LOCAL_PROTOCOLS}))
        raise ImageError("refused_uri", f"the uri's protocol is not one of {allowed}")
    if scheme in _WEB_SCHEMES:
        _refuse_inner_host(f"{scheme}://{rest}")
    folder, _, name = rest.rpartition("/")
    if not folder or not name:
        raise ImageError("refused_uri", "the uri names no file; use scheme://bucket/name")
    try:
        return root_at(f"{scheme}://{folder}", config, limits), name
    except Exception as error:  # the image boundary: on hostile text, fsspec's classes raise any type
        raise ImageError("refused_uri", "the uri cannot be opened: it is malformed, or a package is missing") from error


def _refuse_inner_host(uri: str) -> None:
    try:
        parts = urlsplit(uri)
        host, _ = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        host = ""
    if not _HOST.fullmatch(host):
        raise ImageError("refused_uri", "the uri names no valid host: letters, digits, `.`, `-`, `_`, or an IP address")
    address = ip_address_of(host)
    if host == "localhost" or host.endswith(".localhost") or (address is not None and not address.is_global):
        raise ImageError("refused_uri", "the uri names a host of this machine or of a private network")
