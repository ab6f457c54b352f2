"""The refusal of uris that carry a secret: what a run is named by ends in files, logs and messages."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl, urlsplit

from schemas.errors import ConfigError

# Query keys of presigned links (S3 v2 and v4, GCS, Azure), lower case.
_SIGNATURE_KEYS: Final = frozenset(
    {"signature", "sig", "token", "awsaccesskeyid", "googleaccessid", "x-amz-signature", "x-amz-credential"}
    | {"x-amz-security-token", "x-goog-signature", "x-goog-credential", "access_key", "secret_key", "password"}
)


def refuse_secrets(uri: str) -> str:
    """Return `uri` unchanged when it names a place and nothing secret.

    A local path is never refused: `@` and `?` are ordinary characters there.

    Raises:
        ConfigError: The uri holds userinfo (`s3://key:secret@bucket`) or a signature (`?X-Amz-Signature=`).
            The message names the scheme and the kind of secret, never the uri itself.
    """
    # `simplecache::s3://…`: each link of a chain is a uri of its own.
    for link in uri.split("::"):
        if "://" in link:
            _refuse_link(link)
    return uri


def _refuse_link(link: str) -> None:
    scheme = link.partition("://")[0]
    # Userinfo may hold a `/`, which urlsplit takes for the path; base64 secrets often do.
    authority = link.partition("://")[2]
    try:
        parts = urlsplit(link)
        query = parts.query
        found = "@" in parts.netloc
    except ValueError:
        query, found = link.partition("?")[2], "@" in authority
    if found or ("@" in authority and ":" in authority.partition("@")[0]):
        raise ConfigError(_message(scheme, "credentials before an @"))
    keys = {key.lower() for key, _ in parse_qsl(query, keep_blank_values=True)}
    if keys & _SIGNATURE_KEYS:
        raise ConfigError(_message(scheme, "a signature in its query"))


def _message(scheme: str, secret: str) -> str:
    return (
        f"a {scheme}:// uri holds {secret}: it would end in the run file and in logs. Give the bare "
        "uri (s3://bucket/prefix) and the credentials in the environment (AWS_ACCESS_KEY_ID, "
        "AWS_SECRET_ACCESS_KEY, AWS_PROFILE or an instance role)"
    )
