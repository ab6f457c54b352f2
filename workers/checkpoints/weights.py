"""Finds, verifies and loads weights: local files, fsspec urls, open_clip's hub tags, files shipped in this package.

A file's content, never its name, decides how it is loaded: a tensor `token_ids` marks a compact vocabulary.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from importlib.resources import as_file, files
from pathlib import Path

import fsspec
import open_clip
import torch
from open_clip.pretrained import download_pretrained, get_pretrained_cfg
from torch import nn

from pseudoris.schemas.config import WeightsConfig
from pseudoris.schemas.errors import ConfigError
from pseudoris.workers.checkpoints.compact_vocabulary import expand_vocabulary
from pseudoris.workers.checkpoints.openclip import BUILTIN_PREFIX
from pseudoris.workers.checkpoints.tensor_files import load_tensors

OPEN_CLIP_PREFIX, RANDOM_PREFIX = "open_clip:", "random:"
_SHOWN_KEYS = 4
_HASH_BLOCK_BYTES = 2**20
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
    return _verified_digest(weights, local_file(weights))


def load_into(module: nn.Module, weights: WeightsConfig) -> str:
    """Load a weights file into a module and return the file's sha256. The tensors of both must match exactly.

    Raises:
        ConfigError: The file is missing, unreadable, has another digest, or is for another architecture.
    """
    path = local_file(weights)
    digest = _verified_digest(weights, path)
    state = expand_vocabulary(_read_state(path, weights), where=weights.uri)
    state = _as_open_clip_names(module, _without_wrapper(module, state))
    own = module.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = sorted(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape)
    if missing or extra or shapes:
        raise ConfigError(
            f"weights '{weights.uri}' do not fit the architecture: {len(missing)} tensors missing "
            f"{missing[:_SHOWN_KEYS]}, {len(extra)} unknown {extra[:_SHOWN_KEYS]}, "
            f"{len(shapes)} of another shape {shapes[:_SHOWN_KEYS]}; give the architecture of these weights"
        )
    module.load_state_dict(state)
    return digest


def check_activation(architecture: str, model_config: dict[str, object], weights: WeightsConfig) -> None:
    """Reject a hub tag if it and the architecture differ in QuickGELU: it would load, and give wrong results.

    Raises:
        ConfigError: They differ; the message names the right architecture.
    """
    if not weights.uri.startswith(OPEN_CLIP_PREFIX):
        return
    name, tag = _split_tag(weights)
    wanted = bool((get_pretrained_cfg(name, tag) or {}).get("quick_gelu", False))
    if wanted != bool(model_config.get("quick_gelu", False)):
        remedy = f"{architecture}-quickgelu" if wanted else architecture.removesuffix("-quickgelu")
        raise ConfigError(
            f"weights '{weights.uri}' were trained {'with' if wanted else 'without'} QuickGELU, and architecture "
            f"'{architecture}' is {'without' if wanted else 'with'} it: set architecture to '{remedy}'"
        )


def _builtin_file(weights: WeightsConfig) -> Path:
    """A file shipped in this package."""
    resource = files("pseudoris.workers.checkpoints").joinpath(weights.uri.removeprefix(BUILTIN_PREFIX))
    with as_file(resource) as path:
        if not path.is_file():
            raise ConfigError(_missing(weights, "the package holds no such file"))
        return path


def _split_tag(weights: WeightsConfig) -> tuple[str, str]:
    """Model name and tag of `open_clip:<model>/<tag>`."""
    name, separator, tag = weights.uri.removeprefix(OPEN_CLIP_PREFIX).rpartition("/")
    if not separator or not open_clip.pretrained.is_pretrained_cfg(name, tag):
        raise ConfigError(
            f"weights '{weights.uri}': open_clip has no such model and tag; tags of '{name}': "
            f"{open_clip.list_pretrained_tags_by_model(name)}"
        )
    return name, tag


def _open_clip_file(weights: WeightsConfig) -> Path:
    """Downloads, or finds in open_clip's cache, the file of a hub tag."""
    name, tag = _split_tag(weights)
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
                shutil.copyfileobj(source, out, _HASH_BLOCK_BYTES)
            out.close()
            _verified_digest(weights, partial)
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


def _verified_digest(weights: WeightsConfig, path: Path) -> str:
    """The file's sha256, checked against the expected one."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK_BYTES):
            digest.update(block)
    found = digest.hexdigest()
    if weights.sha256 is not None and found != weights.sha256:
        raise ConfigError(
            f"weights '{weights.uri}' have sha256 {found}, expected {weights.sha256}: "
            "the file was changed or is another version; get it again, or remove weights.sha256"
        )
    return found


def _read_state(path: Path, weights: WeightsConfig) -> dict[str, torch.Tensor]:
    """Tensors by name, from safetensors or from a pickle that may only hold tensors."""
    try:
        state = load_tensors(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"weights '{weights.uri}' cannot be read as tensors: {error}") from error
    # Trainers store the weights beside the optimiser's state: open_clip's under `state_dict`, others under `model`.
    for nested in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(nested), dict):
            state = state[nested]
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        raise ConfigError(f"weights '{weights.uri}' are not a table of tensors: give a state dict")
    return {key.removeprefix("module."): value for key, value in state.items()}


def _without_wrapper(module: nn.Module, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Take a trainer's prefix `model.` away where every tensor has it and the module has no such part."""
    own = module.state_dict().keys()
    if not all(key.startswith("model.") for key in state) or any(key.startswith("model.") for key in own):
        return state
    return {key.removeprefix("model."): value for key, value in state.items()}


def _as_open_clip_names(module: nn.Module, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Renames tensors as open_clip does: a CLIP's text tower for CoCa and custom-text models, and old buffers."""
    own = module.state_dict().keys()
    if "positional_embedding" in state and "positional_embedding" not in own and "text.positional_embedding" in own:
        state = {_under_text(key): value for key, value in state.items()}
    # Buffers and settings that older files contain and newer modules compute.
    dropped = {
        "attn_mask",
        "text.attn_mask",
        "text_decoder.attn_mask",
        "input_resolution",
        "context_length",
        "vocab_size",
    }
    return {key: value for key, value in state.items() if key in own or key not in dropped}


def _under_text(key: str) -> str:
    """A text tower's name in a module that keeps it under `text`."""
    parts = ("text_projection", "positional_embedding", "token_embedding", "transformer", "ln_final", "attn_mask")
    return f"text.{key}" if key.startswith(parts) else key
