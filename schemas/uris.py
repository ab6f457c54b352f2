"""What a user names: paths are resolved, folders made, and uris and settings with secrets refused."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from pydantic import BaseModel

from pseudoris.schemas.errors import ConfigError

# Begins the name of a file that is shipped in the package.
BUILTIN_PREFIX: Final = "builtin:"
# Names of secrets, lower case, letters and digits alone: as settings (those of fsspec's file systems among them) ...
_SECRET_SETTINGS: Final = frozenset(
    {"key", "secret", "token", "password", "passwd", "pwd", "passphrase", "signature", "authorization", "bearer"}
    | {"credential", "credentials", "privatekey", "connectionstring", "apikey", "xapikey", "clientsecret"}
    | {"awsaccesskeyid", "awssecretaccesskey", "awssessiontoken", "securitytoken", "sessiontoken", "accesstoken"}
    | {"accesskey", "accesskeyid", "secretkey", "secretaccesskey", "authtoken", "apitoken", "refreshtoken", "hftoken"}
    | {"accountkey", "sharedkey", "sharedaccesskey", "sharedaccesssignature", "sastoken"}
)
# ... and in a query: presigned links of S3 (v2 and v4), GCS, Azure and Aliyun. Not `key`: `?key=` may name an image.
_SECRET_FIELDS: Final = (_SECRET_SETTINGS - {"key"}) | frozenset(
    {"sig", "googleaccessid", "ossaccesskeyid", "xamzsignature", "xamzcredential", "xamzsecuritytoken"}
    | {"xgoogsignature", "xgoogcredential", "xosssignature", "xosscredential", "xosssecuritytoken"}
)
# Secrets in texts that are not uris: connection strings, headers, private keys, tokens of known shape.
_SECRET_TEXT: Final = re.compile(
    r"(?i)\b(?:account_?key|shared_?access_?(?:key|signature)|aws_secret_access_key|aws_session_token|client_?secret"
    r"|api[-_]?key)\s*[=:]\s*\S|\bauthorization\s*:\s*\S|\bbearer\s+[\w.~+/-]{16}|-----begin [a-z ]*private key"
    r"|\b(?:hf_|gh[pousr]_)[a-z0-9]{30}|\baiza[\w-]{35}"
)
_REMEDY: Final = (
    "it would be written into the run file and logs. Give the bare uri (s3://bucket/prefix) and the credentials in the "
    "environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE or an instance role)"
)
_NOT_FIRST: Final = string.digits + "+.-"
_SCHEME: Final = string.ascii_letters + _NOT_FIRST


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


def refuse_secrets(uri: str) -> str:
    """Return `uri` unchanged if it holds no secret.

    A local path is never rejected: `@` and `?` are ordinary characters there.

    Raises:
        ConfigError: The uri holds userinfo (`s3://key:secret@bucket`) or a signature (`?X-Amz-Signature=`).
            The message names the scheme and the kind of secret, never the uri itself.
    """
    secret = secret_in(uri)
    if secret is not None:
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


def secrets_in(tree: Any, key: str = "") -> Iterator[str]:
    """Yield a line for each text of a tree of mappings, sequences and models that holds a secret uri.

    Each line has the text's dotted key and what `secret_in` returns for it. A setting with the name of a secret counts
    as one whatever its value, for example in a plug-in's options for a client.
    """
    if isinstance(tree, BaseModel):
        tree = tree.model_dump()
    if isinstance(tree, str):
        secret = secret_in(tree)
        if secret is not None:
            yield f"{key}: {secret}"
        elif tree and _letters(key.rpartition(".")[2]) in _SECRET_SETTINGS:
            yield f"{key}: a setting with this name holds a secret: {_REMEDY}"
    elif isinstance(tree, Mapping):
        for name, value in tree.items():
            yield from secrets_in(value, f"{key}.{name}" if key else str(name))
    elif isinstance(tree, Sequence):
        for value in tree:
            yield from secrets_in(value, key)


def secret_in(uri: str) -> str | None:
    """Return what is wrong with a uri that holds a secret, and the remedy, without the uri; None if it holds none."""
    # A text may hold several uris, each checked alone: `simplecache::s3://…`, `https://host/?from=https://…`.
    starts = link_starts(uri)
    for start, end in zip(starts, [*starts[1:], None], strict=False):
        if _has_userinfo(uri[start:end]):
            return _message(uri[start:end], "credentials before an @")
    if starts and _has_secret_field(uri[starts[0] :]):
        return _message(uri[starts[0] :], "a signature in its query")
    return f"this text holds a secret: {_REMEDY}" if _SECRET_TEXT.search(uri) else None


def link_starts(text: str) -> list[int]:
    """Return where links begin: a letter, then letters, digits, `+`, `.` and `-`, then `://`.

    From each `://` backwards: a regular expression would try every letter of a long text to its end.
    """
    starts, searched = [], 0
    for separator in re.finditer("://", text):
        before = text[searched : separator.start()]
        scheme = before[len(before.rstrip(_SCHEME)) :].lstrip(_NOT_FIRST)
        if scheme:
            starts.append(separator.start() - len(scheme))
        searched = separator.end()
    return starts


def _has_userinfo(link: str) -> bool:
    rest = link.partition("://")[2]
    authority, slash, _ = rest.partition("/")
    name, colon, port = authority.partition(":")
    # A secret key is base64 and may contain a `/`, which looks like the end of the authority.
    is_cut_secret = bool(slash and colon) and not port.isdecimal() and "@" in rest and not name.startswith("[")
    return "@" in authority or is_cut_secret


def _has_secret_field(uri: str) -> bool:
    # Some services separate fields by `;`, and a token may follow a `#`.
    fields = re.split(r"[?#&;]", uri)[1:]
    return any(_letters(unquote(field.partition("=")[0])) in _SECRET_FIELDS for field in fields if "=" in field)


def _letters(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _message(link: str, secret: str) -> str:
    return f"a {link.partition('://')[0]}:// uri holds {secret}: {_REMEDY}"
