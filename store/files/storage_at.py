"""Selects the storage of a path or uri by its protocol."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from pseudoris.schemas.config import StorageConfig
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.extras import require_extra
from pseudoris.schemas.uris import named_path
from pseudoris.store.files.local_storage import LocalStorage
from pseudoris.store.files.storage import Storage

LOCAL_PROTOCOLS: Final = ("file", "local")
S3_PROTOCOLS: Final = ("s3", "s3a")
# Below it Ray unpacks the working directory of a job, and deletes it after the job.
_RAY_FOLDER: Final = "/runtime_resources/working_dir_files/"


def storage_at(
    uri: str,
    endpoint_url: str | None = None,
    limits: StorageConfig | None = None,
    *,
    follows_links: bool = True,
    requester_pays: bool = False,
) -> Storage:
    """Return the storage whose root is `uri`; it need not exist, and no request is made yet.

    Args:
        uri: A local path or an fsspec url (`s3://bucket/prefix`).
        endpoint_url: Endpoint of an S3 store other than AWS; None uses AWS_ENDPOINT_URL of the environment.
        limits: Timeouts of an S3 store or a web server, and how long the first is retried. The Hub has its own.
        follows_links: Whether links below a local folder are followed.
        requester_pays: Whether requests to S3 say that their sender pays for them.

    Raises:
        ConfigError: The protocol is unknown, or its package is missing.
    """
    folder = local_path(uri)
    if folder is not None:
        return LocalStorage(folder, follows_links=follows_links)
    # Imported here: a local run, in none of its processes, loads the clients of buckets and of the web.
    protocol = uri.partition("://")[0]
    if protocol in (*S3_PROTOCOLS, "http", "https", "hf"):
        require_extra("remote", uri)
    if protocol in S3_PROTOCOLS:
        from pseudoris.store.files.s3_storage import S3Storage

        return S3Storage.at(uri, endpoint_url, limits or StorageConfig(), requester_pays=requester_pays)
    if protocol == "hf":
        from pseudoris.store.files.hub_storage import HubStorage

        return HubStorage.at(uri)
    from pseudoris.store.files.fsspec_storage import FsspecStorage

    return FsspecStorage.at(uri, limits or StorageConfig())


def local_path(uri: str) -> Path | None:
    """Return the absolute path of a local `uri` (`pseudoris.schemas.uris.named_path`); None if it names another store.

    Percent signs of a `file://` url stand for themselves too.

    Raises:
        ConfigError: It is relative to the working directory that Ray made for a job, and deletes.
    """
    protocol, separator, rest = uri.partition("://")
    if separator and protocol not in LOCAL_PROTOCOLS:
        return None
    named = rest or uri
    path = named_path(named)
    if not named.startswith(("/", "~")) and _RAY_FOLDER in f"{os.path.realpath(path)}/":
        raise ConfigError(
            f"{named} is a relative path: in this Ray job it would be {path}, in a folder that Ray deletes. Give an "
            "absolute path that all nodes share, or a url (s3://bucket/prefix)"
        )
    return path
