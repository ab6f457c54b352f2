"""The extras, which must be those of pyproject.toml, and the error if one is missing. For the modules that need one."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

from pseudoris.primitives.errors import ConfigError

# Maps an extra to the modules that it installs. A test compares them with pyproject.toml, which has their versions.
MODULES: Final[dict[str, tuple[str, ...]]] = {
    "remote": ("aiohttp", "s3fs", "tenacity", "huggingface_hub", "httpx2", "filelock", "safetensors"),
    "run": ("ray", "torch", "torchvision", "open_clip", "segment_anything", "psutil"),
    "train": ("lightning_fabric", "tensorboard"),
    "hf": ("transformers", "num2words"),
    "heif": ("pillow_heif",),
    "spacy": ("spacy",),
    "lmdb": ("lmdb",),
    "exclude": (),
}


def require_extra(extra: str, what: str) -> None:
    """Raise a `ConfigError` with the command to run unless all modules of `extra` are installed; imports none of them.

    Args:
        extra: A key of `MODULES`, or several with commas between them, as pip takes them.
        what: What needs it, the subject of the message: "`pseudoris annotate`".
    """
    lacking = [(each, module) for each in extra.split(",") for module in MODULES[each] if find_spec(module) is None]
    if lacking:
        raise ConfigError(f"{what} needs {lacking[0][1]!r}, which is not installed: {install(','.join(dict(lacking)))}")


def install(extra: str) -> str:
    """Return the command that installs an extra."""
    return f"pip install 'pseudoris[{extra}]'"
