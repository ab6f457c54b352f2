"""The refusal of uris that carry a secret: what a run is named by ends in files, logs and messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl

from pydantic import BaseModel

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
    secret = secret_in(uri)
    if secret is not None:
        raise ConfigError(secret)
    return uri


def secrets_in(tree: Any, key: str = "") -> Iterator[str]:
    """Yield a line for each text of a tree of mappings, sequences and models that holds a secret uri.

    Each line is the text's dotted key and what `secret_in` says of it.
    """
    if isinstance(tree, BaseModel):
        tree = tree.model_dump()
    if isinstance(tree, str):
        secret = secret_in(tree)
        if secret is not None:
            yield f"{key}: {secret}"
    elif isinstance(tree, Mapping):
        for name, value in tree.items():
            yield from secrets_in(value, f"{key}.{name}" if key else str(name))
    elif isinstance(tree, Sequence):
        for value in tree:
            yield from secrets_in(value, key)


def secret_in(uri: str) -> str | None:
    """Return what is wrong with a uri that holds a secret, and the remedy, without the uri; None where nothing is."""
    # `simplecache::s3://…`: each link of a chain is a uri of its own.
    found = (_secret_in_link(link) for link in uri.split("::") if "://" in link)
    return next((secret for secret in found if secret is not None), None)


def _secret_in_link(link: str) -> str | None:
    scheme, _, rest = link.partition("://")
    # Text before the uri, as in a command, may be secret too.
    scheme = scheme.split()[-1] if scheme.split() else ""
    authority, slash, _ = rest.partition("/")
    name, colon, port = authority.partition(":")
    # A secret key is base64 and may hold a `/`: then the authority seems to end inside it.
    is_cut_secret = bool(slash and colon) and not port.isdecimal() and "@" in rest and not name.startswith("[")
    if "@" in authority or is_cut_secret:
        return _message(scheme, "credentials before an @")
    query = rest.partition("?")[2].partition("#")[0]
    keys = {key.lower() for key, _ in parse_qsl(query, keep_blank_values=True)}
    return _message(scheme, "a signature in its query") if keys & _SIGNATURE_KEYS else None


def _message(scheme: str, secret: str) -> str:
    return (
        f"a {scheme}:// uri holds {secret}: it would end in the run file and in logs. Give the bare "
        "uri (s3://bucket/prefix) and the credentials in the environment (AWS_ACCESS_KEY_ID, "
        "AWS_SECRET_ACCESS_KEY, AWS_PROFILE or an instance role)"
    )
