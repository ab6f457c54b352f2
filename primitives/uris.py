"""Checks paths and uris of users, for most rooms: resolves them, explains clients' errors. No secret may be written."""

from __future__ import annotations

import ipaddress
import operator
import os
import re
import socket
import string
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from pydantic import BaseModel

from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.untrusted import has_userinfo, without_secrets

# Names of files that the package ships begin with this prefix.
BUILTIN_PREFIX: Final = "builtin:"
# Settings with these names hold secrets. Only letters and digits of a name count, in lower case.
_SECRET_SETTINGS: Final = frozenset(
    {"key", "secret", "token", "password", "passwd", "pwd", "passphrase", "signature", "authorization", "bearer"}
    | {"credential", "credentials", "privatekey", "connectionstring", "apikey", "xapikey", "clientsecret"}
    | {"awsaccesskeyid", "awssecretaccesskey", "awssessiontoken", "securitytoken", "sessiontoken", "accesstoken"}
    | {"accesskey", "accesskeyid", "secretkey", "secretaccesskey", "authtoken", "apitoken", "refreshtoken", "hftoken"}
    | {"accountkey", "sharedkey", "sharedaccesskey", "sharedaccesssignature", "sastoken"}
)
# Query fields with these names hold no secrets: they choose a version or a form of the file.
_HARMLESS: Final = frozenset(
    {"versionid", "version", "revision", "generation", "snapshot", "download", "dl", "raw", "alt"}
)
# Matches a query field with a value. A `=` at the end of a base64 secret is padding, and no value follows it.
_FIELD: Final = re.compile(r"[?#&;]([A-Za-z][\w.-]{0,30})=(?!%(?:25)*3[dD])[^=&#]")
# Matches secrets in texts that are not uris: connection strings, headers, private keys, and tokens of known form.
_SECRET_TEXT: Final = re.compile(
    r"(?i)\b(?:account_?key|shared_?access_?(?:key|signature)|aws_secret_access_key|aws_session_token|client_?secret"
    r"|api[-_]?key)\s*[=:]\s*\S|\bauthorization\s*:\s*\S|\bbearer\s+[\w.~+/-]{16}|-----begin [a-z ]*private key"
    r"|\b(?:hf_|gh[pousr]_|npm_)[a-z0-9]{30}|\baiza[\w-]{35}|\bya29\.[\w-]{20}|\beyj[\w-]{8,}\.eyj[\w-]{8,}\."
    # Long random tokens have these prefixes: github_pat_…, glpat-…, sk-proj-…, xoxb-…, pypi-…
    r"|\b(?:github_pat_|[a-z]{2}pat-|xox[a-z]-|pypi-age|dop_v1_|[sr]k_(?:live|test)_)[\w-]{16}"
    r"|\bsk-(?:[a-z]{2,8}\d*-)*\w{20}|(?-i:\bA[KS]IA[A-Z0-9]{16}\b)"
)
# Matches tokens of other services: one to three words, then twenty letters and digits. It must match a whole setting.
_TOKEN: Final = re.compile(
    r"(?:[A-Za-z]{2,12}[_-]){1,3}(?=\w*[a-z])(?=\w*[A-Z])(?=(?:[A-Za-z]*\d){3})[A-Za-z0-9]{20,}[\w-]*"
    # This line matches an AWS secret key: its kinds of letters change more often than those of digests and most paths.
    r"|(?!/)(?=[A-Za-z0-9+/]{40}$)(?=.*[a-z])(?=.*[A-Z])(?:.*?(?:(?<=[a-z])[A-Z0-9]|(?<=\d)[A-Za-z])){7}.*"
)
# A query is decoded this many times, because it may be encoded several times.
_MAX_ENCODED: Final = 4
# In this context a validation accepts everything that an existing run holds.
RECORDED: Final = "recorded"
_REMEDY: Final = (
    "it would be written into the run file and logs. Give the bare uri and the credentials in the "
    "environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE or an instance role)"
)
_SECRET: Final = f"this text holds a secret: {_REMEDY}"
_NOT_FIRST: Final = string.digits + "+.-"
_SCHEME: Final = string.ascii_letters + _NOT_FIRST
# A command that has no option for allowed query fields allows none.
NO_FIELDS: Final = frozenset[str]()


def places(given: object, name: str) -> str | dict[str, str] | None:
    """Return `place`, or a place by each key of a mapping; None for None."""
    if isinstance(given, Mapping):
        return {str(key): place(each, name) for key, each in given.items()}
    return None if given is None else place(given, name)


def place(given: object, name: str) -> str:
    """Return the path or url that was given to the argument `name` of the Python API; ConfigError if it is neither."""
    if isinstance(given, str):
        return given
    if not isinstance(given, PathLike):
        kind = type(given)
        raise ConfigError(
            f"{name} takes a path or a url, not a {kind.__module__}.{kind.__qualname__}: save images as files in a "
            "folder, and give the path of the folder."
        )
    text = os.fsdecode(given)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text):
        raise ConfigError(f"{name} is {given!r}, a url that lost a slash in pathlib: give it as a text.")
    return text


def whole_number(given: object, name: str) -> int:
    """Return the number in `name[…]` of the Python API; ConfigError if it is a slice or the like."""
    try:
        return operator.index(given)  # type: ignore[arg-type]  # which is asked
    except TypeError:
        raise ConfigError(
            f"{name}[…] takes a whole number, not a {type(given).__name__}: for several, write "
            f"[{name}[i] for i in range(start, stop)]."
        ) from None


def one_or_several(given: object) -> list[Any]:
    """Return what an argument was given, which takes one thing or several; a text or a path is one."""
    return list(given) if isinstance(given, Iterable) and not isinstance(given, str | PathLike) else [given]


def named_path(path: str | Path) -> Path:
    """Return an absolute path, without following links. `~` is the home folder, unless such a name exists.

    Each other character stands for itself.
    """
    named = Path(path)
    if named.parts[:1] and named.parts[0].startswith("~") and not Path(named.parts[0]).exists():
        with suppress(RuntimeError):  # there is no such user
            named = named.expanduser()
    return named.absolute()


def make_folder(path: Path) -> None:
    """Make a local folder that the user names, with its parents; nothing to do if it is there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be made: {error.strerror or error}. Name another folder") from error


def ip_address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that a url's host is, in any of the forms that resolvers accept; None for a name."""
    address: ipaddress.IPv4Address | ipaddress.IPv6Address | None = None
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
    if address is None:
        # `inet_aton` also reads `127.1`, `0x7f000001` and `2130706433`.
        with suppress(OSError, ValueError):
            address = ipaddress.IPv4Address(socket.inet_aton(host))
    return getattr(address, "ipv4_mapped", None) or address


def is_link_local(host: str) -> bool:
    """Return whether a host is an address such as 169.254.169.254, where clouds give credentials to their machines."""
    address = ip_address_of(host)
    return address is not None and address.is_link_local


def refuse_secrets(uri: str, allowed: Collection[str] = NO_FIELDS) -> str:
    """Return `uri` unchanged if it may be written to files.

    A local path is never rejected: `@` and `?` are ordinary characters there.

    Args:
        uri: A path or uri.
        allowed: Names of a query's fields that hold no secret, or `uri` itself: it is written already.

    Raises:
        ConfigError: The uri holds userinfo (`s3://key:secret@bucket`), or a query or fragment with a field that is
            neither harmless (`?versionId=`) nor allowed. The message names the scheme and the kind of secret, never the
            uri itself.
    """
    if (secret := secret_in(uri, allowed)) is not None:
        raise ConfigError(secret)
    return uri


def writable(uri: str) -> str:
    """Return `uri` unchanged if files can be written there.

    Raises:
        ConfigError: It is on the web or on the Hub, or it holds a secret.
    """
    if refuse_secrets(uri).startswith(("http://", "https://", "hf://")):
        raise ConfigError(
            f"{uri} cannot be written: {uri.partition('://')[0]}:// is only read. Name a local path or "
            "s3://bucket/prefix. To publish a finished run on the Hub: pseudoris export --format hf --push OWNER/NAME"
        )
    return uri


def secrets_in(tree: Any, allowed: Collection[str] | None = NO_FIELDS) -> Iterator[str]:
    """Yield a line for each text of a tree (`values_in`) that holds a secret uri.

    `allowed` is as for `secret_in`. Each line has the text's dotted key and what `secret_in` returns for it. A setting
    with the name of a secret counts as one whatever its value, for example in a plug-in's options for a client.
    """
    for key, value in values_in(tree):
        text = value if isinstance(value, str) else ""
        secret = secret_in(text, allowed) or (_SECRET if _TOKEN.fullmatch(text) else None)
        if secret is not None:
            yield f"{key}: {secret}"
        elif text and _letters(key.rpartition(".")[2]) in _SECRET_SETTINGS:
            yield f"{key}: a setting with this name holds a secret: {_REMEDY}"


def masked(tree: Any, allowed: Collection[str], name: str = "") -> Any:
    """Return a JSON tree, the value of `name`, with `?…` as the query, or "", of each text that `secrets_in` tells."""
    if isinstance(tree, Mapping):
        return {key: masked(value, allowed, key) for key, value in tree.items()}
    if isinstance(tree, list):
        return [masked(value, allowed, name) for value in tree]
    if not isinstance(tree, str) or tree in allowed or not any(secrets_in({name: tree}, allowed)):
        return tree
    shown = without_secrets(tree)
    return "" if any(secrets_in({name: shown}, None)) else shown


def values_in(tree: Any) -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of each node, mappings, sequences and models included; of any depth."""
    # A key is made when its node is due: all children's keys at once could take a thousand times the tree's memory.
    left = [iter([("", tree)])]
    while left:
        for key, each in left[-1]:
            each = each.model_dump() if isinstance(each, BaseModel) else each
            yield key, each
            if isinstance(each, Mapping | list | tuple):
                left.append(_below(key, each))
                break
        else:
            left.pop()


def _below(key: str, node: Mapping[Any, Any] | Sequence[Any]) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        return ((f"{key}.{name}" if key else str(name), value) for name, value in node.items())
    return ((key, value) for value in node)


def secret_in(uri: str, allowed: Collection[str] | None = NO_FIELDS) -> str | None:
    """Return why a uri must not be written, and the remedy, without the uri; None if it may.

    Of the fields of a query, `allowed` are the names that hold no secret. It may hold whole uris too; None: all may.
    The remedy says how a user adds to it, unless it is `NO_FIELDS`.
    """
    # A text may hold several uris, such as `simplecache::s3://…`. The scheme is the word right before the first `://`.
    before, separator, rest = uri.partition("://")
    scheme = before[len(before.rstrip(_SCHEME)) :].lstrip(_NOT_FIRST)
    if has_userinfo(uri):
        if separator:
            return f"a {scheme}:// uri holds credentials before an @: {_REMEDY}"
        return f"this text holds credentials before an @: {_REMEDY}. A file of this name is written ./name"
    # A local path has no query, because its `?` is an ordinary character.
    if separator and scheme not in ("file", "local") and allowed is not None and uri not in allowed:
        fields = {each.partition("=")[0] for each in _unknown_fields(f"{scheme}://{rest}", allowed)}
        if fields:
            names = ",".join(name for name in dict.fromkeys(_FIELD.findall(uri)) if name in fields)
            hint = f". If no secret is in it, allow it by name: --set 'source.allowed_query=[{names}]'"
            is_told = names and allowed is not NO_FIELDS
            return f"a {scheme}:// uri holds a query that may be a secret: {_REMEDY}{hint if is_told else ''}"
    return _SECRET if _SECRET_TEXT.search(uri) else None


def _unknown_fields(link: str, allowed: Collection[str]) -> list[str]:
    """Return the fields of a link's query, fragment and parameters whose names are not known to be harmless."""
    for _ in range(_MAX_ENCODED):
        link = unquote(link)
    _, *fields = re.split(r"[?#&]|;(?=[\w.-]+=)", link)
    known = _HARMLESS | {_letters(name) for name in allowed}
    # Outside http and https, `?` is a wildcard and `#` a letter, so there only a field with a value counts.
    is_web = "http://" in link or "https://" in link
    return [
        each for each in fields if each and (is_web or "=" in each) and _letters(each.partition("=")[0]) not in known
    ]


def _letters(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


_S3: Final = (
    *("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_ENDPOINT_URL_S3"),
    *("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_CA_BUNDLE", "AWS_WEB_IDENTITY_TOKEN_FILE"),
    *("AWS_DEFAULTS_MODE", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
)
_PROXIES: Final = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy", "SSL_CERT_FILE")
# An error shows these environment variables of each protocol: names, paths, addresses. It hides the values of others.
_SHOWN: Final[Mapping[str, tuple[str, ...]]] = {
    "s3": _S3,
    "s3a": _S3,
    "hf": ("HF_ENDPOINT", *_PROXIES),
    "gs": ("GOOGLE_APPLICATION_CREDENTIALS",),
}
# Errors with these names repeat the words of a program or a server, which may hold a secret.
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
