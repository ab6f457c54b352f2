"""The refusal of uris that carry a secret: what a run is named by ends in files, logs and messages."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl

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
    scheme, _, rest = link.partition("://")
    authority, slash, _ = rest.partition("/")
    name, colon, port = authority.partition(":")
    # A secret key is base64 and may hold a `/`: then the authority seems to end inside it.
    is_cut_secret = bool(slash and colon) and not port.isdecimal() and "@" in rest and not name.startswith("[")
    if "@" in authority or is_cut_secret:
        raise ConfigError(_message(scheme, "credentials before an @"))
    query = rest.partition("?")[2].partition("#")[0]
    keys = {key.lower() for key, _ in parse_qsl(query, keep_blank_values=True)}
    if keys & _SIGNATURE_KEYS:
        raise ConfigError(_message(scheme, "a signature in its query"))


def _message(scheme: str, secret: str) -> str:
    return (
        f"a {scheme}:// uri holds {secret}: it would end in the run file and in logs. Give the bare "
        "uri (s3://bucket/prefix) and the credentials in the environment (AWS_ACCESS_KEY_ID, "
        "AWS_SECRET_ACCESS_KEY, AWS_PROFILE or an instance role)"
    )
