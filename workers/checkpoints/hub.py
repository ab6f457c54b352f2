"""Files of the Hugging Face hub: their digests and urls by its own records, and what its library has cached.

The library is not asked for the bytes: its version 2 throws away what it has of a file when a download breaks off.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import httpx2
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils._headers import build_hf_headers
from tenacity import Retrying, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_base, wait_exponential_jitter

from pseudoris.schemas.errors import ConfigError, TransientError
from pseudoris.workers.checkpoints.download import RemoteFile
from pseudoris.workers.checkpoints.reachability import unreachable_reason
from pseudoris.workers.checkpoints.weight_catalogue import HubSource

_TIMEOUT_S: Final = 5.0
_MAX_ATTEMPTS: Final = 5
_WAIT: Final = wait_exponential_jitter(initial=1, max=10)
_SERVER_ERRORS: Final = frozenset({408, 429, *range(500, 600)})
# The etag of a large file is its sha256; that of a small one is another hash.
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def hub_url(source: HubSource) -> str:
    """Return the url from which a person can download the file that is preferred."""
    return hf_hub_url(source.repo, source.filenames[0], revision=source.revision)


def hub_unreachable_reason() -> str | None:
    """Return why the hub cannot be asked, as a short text; None if it answers."""
    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    return unreachable_reason(constants.ENDPOINT)


def remote_file(source: HubSource, *, wait: wait_base = _WAIT) -> tuple[int, RemoteFile, str]:
    """Ask the hub for a file: which of its names exists (as an index), what and where it is, and the commit.

    Raises:
        ConfigError: The hub has no such file, or gives it only to those who are logged in.
        TransientError: The hub does not answer.
    """
    retrying = Retrying(
        retry=retry_if_exception(_is_transient), stop=stop_after_attempt(_MAX_ATTEMPTS), wait=wait, reraise=True
    )
    for index, filename in enumerate(source.filenames):
        url = hf_hub_url(source.repo, filename, revision=source.revision)
        try:
            found = retrying(get_hf_file_metadata, url, timeout=_TIMEOUT_S)
        except EntryNotFoundError:
            continue
        except (httpx2.HTTPError, OfflineModeIsEnabled) as error:
            summary = f"the hub does not give {source.repo}/{filename}: {str(error).splitlines()[0]}"
            if _is_transient(error):
                raise TransientError(summary) from error
            raise ConfigError(f"{summary}. If the repository asks for consent, log in with `hf auth login`") from error
        sha256 = found.etag if found.etag and _SHA256.fullmatch(found.etag) else None
        # By the commit, so that no other version is put behind a part of this one.
        pinned = hf_hub_url(source.repo, filename, revision=found.commit_hash)
        return index, RemoteFile(pinned, sha256, found.size, build_hf_headers()), found.commit_hash or ""
    raise ConfigError(f"the hub's repository {source.repo} has none of the files {', '.join(source.filenames)}")


def hub_cached_file(source: HubSource) -> Path | None:
    """Return the file in the cache of the hub's own library, None if it is not there."""
    for filename in source.filenames:
        found = try_to_load_from_cache(source.repo, filename, revision=source.revision)
        if isinstance(found, str):
            return Path(found)
    return None


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _SERVER_ERRORS
    return isinstance(error, httpx2.HTTPError) and not isinstance(error, httpx2.TooManyRedirects)
