"""A dataset of the Hugging Face Hub, to read: `hf://datasets/OWNER/NAME@COMMIT/folder`.

`sources.open_source` replaces a branch or a tag by its commit (`pinned`), so that a later session reads the same bytes.
The requests are our own, as for S3: the client's file system asks three times about each file, and the Hub limits how
often it answers.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn, Self, cast
from urllib.parse import quote

import httpx2
from huggingface_hub import constants
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._hf_uris import parse_hf_uri
from huggingface_hub.utils._http import hf_raise_for_status, http_backoff

from pseudoris.schemas.config import StorageConfig
from pseudoris.schemas.errors import ConfigError, TransientError
from pseudoris.store.files.fsspec_storage import FsspecStorage
from pseudoris.store.files.ranged_reader import Fetched, RangedReader, open_version
from pseudoris.store.files.storage import ChangedError, StoredFile

# The client waits 1, 2, 4 and then 8 s between its tries, and as long as the Hub says after a 429.
_S_PER_RETRY: Final = 16
_LOG_IN: Final = "run `hf auth login`, or set HF_TOKEN, on each machine that reads it"


class HubStorage(FsspecStorage):
    """A folder of a dataset at one revision, as `Storage` describes it. Can be pickled; the token is not part of it."""

    def __init__(self, dataset: str, revision: str, folder: str, limits: StorageConfig) -> None:
        """Set the dataset's name `OWNER/NAME`, a commit, branch or tag, and a folder or a file in it."""
        self._dataset, self._revision, self._root, self._limits = dataset, revision, folder, limits

    @classmethod
    def at(cls, uri: str, limits: StorageConfig) -> Self:
        """Return the storage at `hf://datasets/OWNER/NAME[@REVISION][/folder]`. No request is made yet.

        Raises:
            ConfigError: It is not the url of a dataset.
        """
        try:
            found = parse_hf_uri(uri)
        except ValueError:
            found = None
        if found is None or found.type != "dataset" or ".." in found.path_in_repo.split("/"):
            raise ConfigError(f"{uri!r} is not the url of a dataset: give hf://datasets/OWNER/NAME[@REVISION][/folder]")
        return cls(found.id, found.revision or constants.DEFAULT_REVISION, found.path_in_repo, limits)

    def pinned(self) -> Self:
        """Return the storage at the commit that its revision names now.

        Raises:
            ConfigError: The Hub gives no such dataset or revision to this user.
            TransientError: The Hub does not answer.
        """
        try:
            commit = self._ask("GET", "revision").json()["sha"]
        except OSError as error:
            raise self._explained(error) from error
        return type(self)(self._dataset, commit, self._root, self._limits)

    def uri(self, path: str = "") -> str:
        """Return the uri with its revision, `hf://datasets/OWNER/NAME@REVISION/…`."""
        return f"hf://datasets/{self._dataset}@{quote(self._revision, safe='')}/{self._at(path)}".rstrip("/")

    def open(self, path: str, *, window_bytes: int = 0) -> BinaryIO:
        """Return the file for ranged reads; the first read makes the first request."""
        return cast("BinaryIO", RangedReader(self, self._at(path), window_bytes=window_bytes))

    @contextmanager
    def open_version(self, path: str, expected: StoredFile, *, window_bytes: int = 0) -> Iterator[BinaryIO]:
        """Open the expected version: every answer must have its etag."""
        with open_version(self, self._at(path), expected, window_bytes=window_bytes) as reader:
            yield reader

    def get(self, key: str, *, etag: str | None = None, start: int = 0, length: int | None = None) -> Fetched:
        """Return bytes of a file, as `RangedRequests.get`."""
        last = "" if start < 0 or length is None else start + length - 1
        answer = self._ask("GET", "resolve", key, headers={"Range": f"bytes={start}{'' if start < 0 else f'-{last}'}"})
        if answer.status_code == 416:
            return Fetched(b"", max(start, 0), etag or "")
        found = _etag(answer)
        # Without an etag the commit in the address says which version it is.
        if None not in (found, etag) and found != etag:
            raise ChangedError
        if answer.status_code == 206:
            size_bytes = int(answer.headers["Content-Range"].rpartition("/")[2])
            return Fetched(answer.content, size_bytes, found or "")
        data = answer.content[start:] if length is None or start < 0 else answer.content[start : start + length]
        return Fetched(data, len(answer.content), found or "")

    def create_once(self, path: str, data: bytes) -> NoReturn:
        """Refuse: a dataset is only read."""
        raise ConfigError(
            f"{self.uri(path)} cannot be written: hf:// is only read. Name a local path or s3://bucket/prefix. To "
            "publish a finished run: pseudoris export --format hf --push OWNER/NAME"
        )

    def put(self, path: str, data: bytes) -> NoReturn:
        """Refuse."""
        self.create_once(path, data)

    def put_file(self, path: str, local: Path) -> NoReturn:
        """Refuse."""
        self.create_once(path, b"")

    def delete(self, path: str) -> NoReturn:
        """Refuse."""
        self.create_once(path, b"")

    def _info(self, path: str) -> Mapping[str, Any]:
        if not self._at(path):
            self._ask("GET", "revision")
            return {"type": "directory"}
        found = self._ask("POST", "paths-info", data={"paths": [self._at(path)], "expand": False}).json()
        if not found:
            raise FileNotFoundError(path)
        return _entry(found[0])

    def _below(self, folder: str) -> Sequence[tuple[str, Mapping[str, Any]]]:
        answer = self._ask("GET", "tree", self._at(folder))
        entries = answer.json()
        while following := answer.links.get("next", {}).get("url"):
            answer = self._ask("GET", following)
            entries += answer.json()
        return [(each["path"].rpartition("/")[2], _entry(each)) for each in entries]

    def _at(self, path: str) -> str:
        return "/".join(filter(None, (self._root, path)))

    def _ask(
        self, method: Any, what: str, path: str = "", headers: Mapping[str, str] | None = None, **body: Any
    ) -> Any:
        """Return the Hub's answer about the dataset, or about `path` in it; `what` may also be a url."""
        prefix = "" if what == "resolve" else "api/"
        address = f"{prefix}datasets/{self._dataset}/{what}/{quote(self._revision, safe='')}/{quote(path)}".rstrip("/")
        connect_s, read_s = self._limits.connect_timeout_s, self._limits.read_timeout_s
        with hub_errors():
            answer = http_backoff(
                method,
                what if "://" in what else f"{constants.ENDPOINT}/{address}",
                # Compressed, it has another etag.
                headers={**build_hf_headers(), "Accept-Encoding": "identity", **(headers or {})},
                timeout=(connect_s, read_s, read_s, read_s),
                max_retries=int(self._limits.patience_s // _S_PER_RETRY) + 2,
                **body,
            )
            if answer.status_code != 416:
                hf_raise_for_status(answer)
        return answer

    def _explained(self, error: OSError) -> ConfigError | TransientError:
        cause, name = error.__cause__, self.uri()
        page = f"{constants.ENDPOINT}/datasets/{self._dataset}"
        if isinstance(cause, GatedRepoError):
            return ConfigError(f"{name} asks for consent: give it on {page}, then {_LOG_IN}")
        if isinstance(cause, RevisionNotFoundError):
            return ConfigError(f"{page} has no revision {self._revision!r}: name a branch, a tag or a commit")
        if isinstance(error, PermissionError):
            return ConfigError(
                f"the Hub shows no dataset {self._dataset} to you. Check the name; if it is private, {_LOG_IN}"
            )
        return TransientError(f"cannot open {name}: {error.strerror}; run the same command again to continue")


@contextmanager
def hub_errors() -> Iterator[None]:
    """Convert errors of the Hub's client to OSErrors. Their text is dropped, because it may hold a signed url."""
    try:
        yield
    except EntryNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, "the Hub has no such file") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        hidden = isinstance(error, RepositoryNotFoundError | RevisionNotFoundError | DisabledRepoError)
        if hidden or status in (401, 403):
            raise PermissionError(errno.EACCES, f"the Hub does not give it ({status})") from error
        raise OSError(errno.EIO, f"the Hub answers {status}") from error
    except OfflineModeIsEnabled as error:
        raise OSError(errno.ENETDOWN, "HF_HUB_OFFLINE is set") from error
    except httpx2.HTTPError as error:
        raise OSError(errno.EIO, f"the Hub cannot be reached ({type(error).__name__})") from error


def _entry(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a file or a folder as `FsspecStorage` reads them; of a large file the etag is its sha256."""
    return {
        "name": found["path"],
        "type": found["type"],
        "size": found.get("size"),
        "etag": (found.get("lfs") or found)["oid"],
    }


def _etag(answer: Any) -> str | None:
    """Return the etag that a listing gives as well. That of the store that the Hub redirects to is another one."""
    linked = [each.headers["X-Linked-Etag"] for each in (*answer.history, answer) if "X-Linked-Etag" in each.headers]
    own = (
        [answer.headers["ETag"]] if "ETag" in answer.headers and str(answer.url).startswith(constants.ENDPOINT) else []
    )
    return next((text.removeprefix("W/").strip('"') for text in linked + own), None)
