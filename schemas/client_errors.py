"""Says in one message what the set-up of a storage's client got wrong: endpoint, profile, credentials, certificates.

Whoever makes such a client asks here: buckets, the Hub, weights and priors behind a url.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.uris import secret_in

_S3: Final = (
    *("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_ENDPOINT_URL_S3"),
    *("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_CA_BUNDLE", "AWS_WEB_IDENTITY_TOKEN_FILE"),
    *("AWS_DEFAULTS_MODE", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
)
_PROXIES: Final = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy", "SSL_CERT_FILE")
# By protocol. These are names, paths and addresses; the values of other variables are not shown.
_SHOWN: Final[Mapping[str, tuple[str, ...]]] = {
    "s3": _S3,
    "s3a": _S3,
    "hf": ("HF_ENDPOINT", *_PROXIES),
    "gs": ("GOOGLE_APPLICATION_CREDENTIALS",),
}
# Their text repeats what a program or a server said.
_REPEATS_OTHERS: Final = frozenset({"CredentialRetrievalError", "HTTPClientError", "ClientError"})
_MIN_SECRET_LETTERS: Final = 4


def client_error(error: BaseException, uri: str, endpoint_url: str | None = None) -> ConfigError:
    """Return what to raise if the client of `uri` cannot be set up: its error, and the settings that it may be of."""
    protocol = uri.partition("://")[0]
    named = {name: os.environ.get(name) for name in _SHOWN.get(protocol, ())}
    if endpoint_url not in named.values():
        named = {"source.endpoint_url": endpoint_url, **named}
    shown = [f"{name}={value!r}" for name, value in named.items() if value and not secret_in(value)]
    profile = next(filter(None, (named.get(name) for name in _S3[:2])), "default")
    where = f" there, or in the profile (~/.aws/config; `aws sso login --profile {profile}` renews a login)"
    return ConfigError(
        f"the client of {uri} cannot be set up: {_told(error)}. In force: {', '.join(shown) or 'no setting'}. "
        f"Correct it{where if named.keys() & set(_S3) else ''}. An endpoint is http://HOST:PORT or https://HOST"
    )


def _told(error: BaseException) -> str:
    name, text = type(error).__name__, " ".join(str(error).split())
    secrets = {value for name, value in os.environ.items() if name not in _S3 and name.startswith(("AWS_", "HF_TOKEN"))}
    is_safe = name not in _REPEATS_OTHERS and not secret_in(text)
    if not text or not is_safe or any(len(each) >= _MIN_SECRET_LETTERS and each in text for each in secrets):
        return name
    return f"{name}: {text}"
