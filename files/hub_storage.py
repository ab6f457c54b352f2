"""Reads a dataset of the Hugging Face Hub (`hf://datasets/OWNER/NAME@COMMIT/folder`). For `location` and exports.

`sources.open_source` replaces a branch or a tag by its commit (`pinned`), so that a later session reads the same bytes.
The Hub's client retries. Errors must not repeat the client's texts, which may hold a signed url.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, BinaryIO, Final, Self, cast

import httpx2
from fsspec.spec import AbstractBufferedFile
from huggingface_hub import HfApi, HfFileSystem, constants, get_token, parse_hf_uri
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_file_system import HfFileSystemFile

from pseudoris.files.fsspec_storage import FsspecStorage
from pseudoris.files.hub_client import bounded_answers
from pseudoris.files.storage import StoredFile, refuse_change, storage_errors
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.untrusted import MAX_BYTES, told
from pseudoris.primitives.uris import client_error, secret_in, writable
from pseudoris.schemas.config import StorageConfig

# Before a read, the client lists the file's folder. This lock lets one thread list it while the others wait.
_LISTING: Final = threading.Lock()
_ANSWERED: Final = threading.Event()
# A file of which the bytes are not those that the Hub lists is fetched so often.
_ATTEMPTS: Final = 3
_LOG_IN: Final = "run `hf auth login`, or set HF_TOKEN, on each machine that reads it"


@contextmanager
def hub_errors() -> Iterator[None]:
    """Convert errors of the Hub's client to OSErrors. Their text is dropped, because it may hold a signed url."""
    if secret_in(constants.ENDPOINT):
        raise ConfigError("HF_ENDPOINT holds a secret, and the Hub's client logs it: give the address alone")
    if not (get_token() or "").isascii():
        raise ConfigError("HF_TOKEN is not a token: set it anew, or run `hf auth login`")
    try:
        with bounded_answers():
            yield
        _ANSWERED.set()
    except (httpx2.UnsupportedProtocol, httpx2.LocalProtocolError, httpx2.InvalidURL, ValueError) as error:
        raise client_error(error, "hf://") from told(error)
    except (httpx2.HTTPError, FileNotFoundError, OfflineModeIsEnabled) as error:
        # The cause decides, because the client raises FileNotFoundError also for a dataset that the user may not see.
        cause = error.__cause__ if isinstance(error.__cause__, HfHubHTTPError) else error
        if isinstance(cause, FileNotFoundError):
            raise
        if not isinstance(cause, HfHubHTTPError):
            below: Any = getattr(cause.__cause__, "__context__", None)
            # A wrong HF_ENDPOINT or TLS setting fails every request, so it is blamed only before the first answer.
            is_no_host = getattr(below, "errno", None) == socket.EAI_NONAME and "HF_ENDPOINT" in os.environ
            if not _ANSWERED.is_set() and (is_no_host or isinstance(below, ssl.SSLError)):
                raise client_error(below, "hf://") from told(cause)
            raise OSError(errno.EIO, f"the Hub cannot be reached ({type(cause).__name__})") from told(cause)
        status = cause.response.status_code
        number = errno.ENOKEY if status in (401, 403, 404) else errno.EIO
        is_missing = isinstance(cause, EntryNotFoundError)
        raise OSError(errno.ENOENT if is_missing else number, f"the Hub answers {status}") from told(cause)


class _ListedFile(HfFileSystemFile):
    """A file that has the length, and if it is fetched whole the digest, that the listing says.

    The client itself reads a whole file to the end that its server sets.
    """

    def read(self, length: int = -1) -> bytes:
        return bytes(AbstractBufferedFile.read(self, length))

    def _fetch_range(self, start: int, end: int) -> bytes:
        if end - start > MAX_BYTES:
            raise ConfigError(f"{self.path} has {end - start:,} bytes to read at once, at most {MAX_BYTES:,} are read")
        for _ in range(_ATTEMPTS):
            with hub_errors():
                data = bytes(super()._fetch_range(start, end))
            if len(data) == end - start and (len(data) < self.size or self._is_listed(data)):
                return data
        raise OSError(errno.EIO, f"the Hub sent other bytes than it lists, {_ATTEMPTS} times")

    def _is_listed(self, data: bytes) -> bool:
        if lfs := self.details.get("lfs"):
            return bool(hashlib.sha256(data).hexdigest() == lfs["sha256"])
        of_git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False)
        return bool(of_git.hexdigest() == self.details["blob_id"])


class HubStorage(FsspecStorage):
    """A folder of a dataset at one revision, as `Storage` describes it. Can be pickled; the token is not part of it."""

    @classmethod
    def at(cls, uri: str, limits: StorageConfig | None = None) -> Self:
        """Return the storage at `hf://datasets/OWNER/NAME[@REVISION][/folder]`; ConfigError for another url."""
        try:
            found = parse_hf_uri(uri)
        except ValueError:
            found = None
        if found is None or found.type != "dataset" or ".." in found.path_in_repo.split("/"):
            raise ConfigError(f"{uri!r} is not the url of a dataset: give hf://datasets/OWNER/NAME[@REVISION][/folder]")
        found = replace(found, revision=found.revision or constants.DEFAULT_REVISION)
        return cls(HfFileSystem(), found.to_uri().removeprefix(constants.HF_PROTOCOL))

    def pinned(self) -> str:
        """Return the uri with the commit that its revision names now.

        ConfigError if the Hub gives no such dataset or revision to this user; TransientError if it does not answer.
        """
        found, name = parse_hf_uri(self.uri()), self.uri()
        page = f"{constants.ENDPOINT}/datasets/{found.id}"
        with storage_errors("open", name), hub_errors():
            try:
                commit = HfApi().dataset_info(found.id, revision=found.revision, expand=["sha"]).sha
            except GatedRepoError:
                raise ConfigError(f"{name} asks for consent: give it on {page}, then {_LOG_IN}") from None
            except RevisionNotFoundError:
                raise ConfigError(f"{page} has no revision {found.revision!r}: name a branch, tag or commit") from None
            except RepositoryNotFoundError:
                told = f"the Hub shows no dataset {found.id} to you. Check the name; if it is private, {_LOG_IN}"
                raise ConfigError(told) from None
        return replace(found, revision=commit).to_uri()

    def open(self, path: str, *, window_bytes: int = 0) -> BinaryIO:
        """Return the file opened for ranged reading."""
        with self._errors():
            return cast("BinaryIO", _ListedFile(self._filesystem, self._at(path)))

    @contextmanager
    def open_version(self, path: str, expected: StoredFile, *, window_bytes: int = 0) -> Iterator[BinaryIO]:
        """Open the expected version, which does not change while it is read: it is one of a commit."""
        with self._errors():
            with _LISTING:
                refuse_change(self.stat(path), expected)
            with self.open(path) as stream:
                yield stream

    def create_once(self, path: str, *_: Any, **__: Any) -> Any:
        """Refuse: a dataset is only read."""
        writable(self.uri(path))

    put = put_file = delete = create_once

    _errors = staticmethod(hub_errors)
