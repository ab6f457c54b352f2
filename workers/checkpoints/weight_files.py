"""Finds and verifies weights files, without torch: local files, fsspec urls, open_clip's hub tags, shipped files."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from importlib.resources import as_file, files
from pathlib import Path

import fsspec

from pseudoris.schemas.config import WeightsConfig
from pseudoris.schemas.errors import ConfigError

BUILTIN_PREFIX, OPEN_CLIP_PREFIX, RANDOM_PREFIX = "builtin:", "open_clip:", "random:"
_COPY_BLOCK_BYTES = 2**20
# Keys under which S3, GCS, Azure, web servers and disks give a file's version. A new file under the same url has
# another.
_VERSION_KEYS = (
    "size",
    "ETag",
    "etag",
    "Content-MD5",
    "content_md5",
    "md5Hash",
    "generation",
    "LastModified",
    "Last-Modified",
    "last_modified",
    "updated",
    "mtime",
    "created",
)


def random_seed(weights: WeightsConfig) -> int | None:
    """Return the seed of `random:<seed>`, else None.

    Raises:
        ConfigError: No whole number follows the prefix.
    """
    if not weights.uri.startswith(RANDOM_PREFIX):
        return None
    text = weights.uri.removeprefix(RANDOM_PREFIX)
    if not text.isdecimal():
        raise ConfigError(f"weights '{weights.uri}': '{RANDOM_PREFIX}' needs a whole number, got '{text}'")
    return int(text)


def local_file(weights: WeightsConfig) -> Path:
    """Return a local path of the weights. A remote file is first downloaded to the machine's temporary folder.

    Raises:
        ConfigError: The file is missing or cannot be downloaded; the message says how to get it.
    """
    if weights.uri.startswith(BUILTIN_PREFIX):
        return _builtin_file(weights)
    if weights.uri.startswith(OPEN_CLIP_PREFIX):
        return _open_clip_file(weights)
    if "://" in weights.uri:
        return _remote_file(weights)
    path = Path(weights.uri)
    if not path.is_file():
        raise ConfigError(_missing(weights, "there is no such file"))
    return path


def weights_digest(weights: WeightsConfig) -> str:
    """Return the sha256 of a weights file, or of the uri itself for `random:<seed>`, as 64 hex digits.

    Raises:
        ConfigError: The file is missing, or its digest is not `sha256`.
    """
    if random_seed(weights) is not None:
        return hashlib.sha256(weights.uri.encode()).hexdigest()
    return verified_digest(weights, local_file(weights))


def _builtin_file(weights: WeightsConfig) -> Path:
    """A file shipped in this package."""
    resource = files("pseudoris.workers.checkpoints").joinpath(weights.uri.removeprefix(BUILTIN_PREFIX))
    with as_file(resource) as path:
        if not path.is_file():
            raise ConfigError(_missing(weights, "the package holds no such file"))
        return path


def split_tag(weights: WeightsConfig) -> tuple[str, str]:
    """Return model name and tag of `open_clip:<model>/<tag>`. Raises: ConfigError: open_clip knows no such tag."""
    # Imported here: it takes seconds, which only a hub tag needs.
    from open_clip.pretrained import is_pretrained_cfg, list_pretrained_tags_by_model

    name, separator, tag = weights.uri.removeprefix(OPEN_CLIP_PREFIX).rpartition("/")
    if not separator or not is_pretrained_cfg(name, tag):
        raise ConfigError(
            f"weights '{weights.uri}': open_clip has no such model and tag; tags of '{name}': "
            f"{list_pretrained_tags_by_model(name)}"
        )
    return name, tag


def _open_clip_file(weights: WeightsConfig) -> Path:
    """Downloads, or finds in open_clip's cache, the file of a hub tag."""
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg

    name, tag = split_tag(weights)
    try:
        return Path(download_pretrained(get_pretrained_cfg(name, tag)))
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        raise ConfigError(_missing(weights, f"the download failed: {type(error).__name__}: {error}")) from error


def _remote_file(weights: WeightsConfig) -> Path:
    """Downloads an fsspec url once per machine, into the temporary folder; again if the file behind the url changes."""
    try:
        # With a digest, no request to the store is needed: a file under this name was verified when it was downloaded.
        version = weights.sha256 or _remote_version(weights.uri)
        name = hashlib.sha256(f"{weights.uri} {version}".encode()).hexdigest()[:24] + Path(weights.uri).suffix
        target = _own_folder() / name
        if not target.is_file():
            _fetch(weights, target)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(_missing(weights, f"it cannot be fetched: {type(error).__name__}: {error}")) from error
    return target


def _own_folder() -> Path:
    """The machine's folder of downloaded weights. Another user who can write to it could replace weights.

    Raises:
        ConfigError: It belongs to another user, or others may write to it.
    """
    folder = Path(tempfile.gettempdir()) / "pseudoris-weights"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise ConfigError(
            f"{folder} holds downloaded weights, but is not a folder that only this user can write to "
            f"(owner {found.st_uid}, {stat.filemode(found.st_mode)}): remove it, or set TMPDIR to a folder of your own"
        )
    return folder


def _remote_version(uri: str) -> str:
    """Size of the file behind an fsspec url, with its digest and time if the store gives them."""
    filesystem, path = fsspec.url_to_fs(uri)
    info = filesystem.info(path)
    return " ".join(f"{key}={info[key]}" for key in _VERSION_KEYS if info.get(key) is not None)


def _fetch(weights: WeightsConfig, target: Path) -> None:
    """Writes the whole remote file to `target`, or nothing."""
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as out:
        partial = Path(out.name)
        try:
            with fsspec.open(weights.uri, "rb") as source:
                shutil.copyfileobj(source, out, _COPY_BLOCK_BYTES)
            out.close()
            verified_digest(weights, partial)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)


def _missing(weights: WeightsConfig, why: str) -> str:
    """The message for a missing file, with the command that gets it."""
    remedy = weights.how_to_get or _default_remedy(weights)
    return f"weights '{weights.uri}' are not available: {why}. To get them: {remedy}"


def _default_remedy(weights: WeightsConfig) -> str:
    """How to get the weights if the preset does not say it."""
    if weights.uri.startswith(BUILTIN_PREFIX):
        return "reinstall the package, or train them: python -m pseudoris.synthworld.training"
    if weights.uri.startswith(OPEN_CLIP_PREFIX):
        name, _, tag = weights.uri.removeprefix(OPEN_CLIP_PREFIX).rpartition("/")
        return (
            'on a machine with network access run python -c "import open_clip; '
            f"open_clip.create_model('{name}', pretrained='{tag}')\" and copy its cache (~/.cache/huggingface), "
            "or set the stage's weights.uri, such as captions.weights.uri, to a local file"
        )
    return "put the file there, or set weights.uri to its path"


def verified_digest(weights: WeightsConfig, path: Path) -> str:
    """Return the sha256 of a weights file. Raises: ConfigError: It is not the expected one."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if weights.sha256 is not None and found != weights.sha256:
        raise ConfigError(
            f"weights '{weights.uri}' have sha256 {found}, expected {weights.sha256}: "
            "the file was changed or is another version; get it again, or remove weights.sha256"
        )
    return found
