"""Builds open_clip's own CoCa and CLIP modules from a registry name or a JSON model config."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import open_clip
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from torch import nn

from schemas.errors import ConfigError

BUILTIN_PREFIX = "builtin:"


def read_model_config(architecture: str) -> dict[str, Any]:
    """Returns open_clip's config of a registry name, a JSON file, or a `builtin:` file of this package.

    Raises:
        ConfigError: none of the three.
    """
    if architecture.startswith(BUILTIN_PREFIX):
        text = files("workers.checkpoints").joinpath(architecture.removeprefix(BUILTIN_PREFIX))
        if not text.is_file():
            raise ConfigError(f"architecture '{architecture}': no such file is shipped in workers/checkpoints")
        return _parse(text.read_text(encoding="utf-8"), architecture)
    if architecture.endswith(".json"):
        path = Path(architecture)
        if not path.is_file():
            raise ConfigError(
                f"architecture '{architecture}': no such file; give the path of an open_clip model config"
            )
        return _parse(path.read_text(encoding="utf-8"), architecture)
    config: dict[str, Any] | None = open_clip.get_model_config(architecture)
    if config is None:
        raise ConfigError(
            f"architecture '{architecture}' is not in open_clip's registry: give one of open_clip.list_models(), "
            "such as coca_ViT-L-14 or RN50-quickgelu, or the path of a JSON model config"
        )
    return config


def _parse(text: str, architecture: str) -> dict[str, Any]:
    """Reads a config, with the file named in the error."""
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"architecture '{architecture}' is not JSON: {error}") from error
    if not isinstance(config, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= config.keys():
        raise ConfigError(
            f"architecture '{architecture}' is no open_clip model config: it needs embed_dim, vision_cfg and text_cfg"
        )
    return config


def build_from_config(config: dict[str, Any]) -> nn.Module:
    """Returns an open_clip model in eval mode with fresh weights: CoCa where the config has a multimodal decoder."""
    arguments = {key: value for key, value in config.items() if key != "custom_text"}
    if "multimodal_cfg" in config:
        model: nn.Module = CoCa(**arguments)
        _initialise_projection(model)
    elif config.get("custom_text"):
        model = CustomTextCLIP(**arguments)
    else:
        model = CLIP(**arguments)
    return model.eval()


def _initialise_projection(model: nn.Module) -> None:
    """Draws the decoder's vocabulary projection, which open_clip 3.3 allocates and leaves as it finds the memory."""
    projection = model.get_parameter("text_decoder.text_projection")
    nn.init.normal_(projection, std=projection.shape[0] ** -0.5)


def build_coca(architecture: str) -> CoCa:
    """Returns a CoCa with fresh weights.

    Raises:
        ConfigError: unknown architecture, or one without a text decoder.
    """
    config = read_model_config(architecture)
    if "multimodal_cfg" not in config:
        raise ConfigError(f"architecture '{architecture}' has no multimodal_cfg: a captioner must be a CoCa")
    model = build_from_config(config)
    if not isinstance(model, CoCa):
        raise ConfigError(
            f"architecture '{architecture}' builds {type(model).__name__}, and a captioner must be a CoCa"
        )
    return model


def build_clip(architecture: str) -> CLIP | CustomTextCLIP:
    """Returns a CLIP with fresh weights.

    Raises:
        ConfigError: unknown architecture, or one with a text decoder.
    """
    config = read_model_config(architecture)
    model = build_from_config(config)
    if not isinstance(model, CLIP | CustomTextCLIP):
        raise ConfigError(f"architecture '{architecture}' builds {type(model).__name__}: a scorer must be a CLIP")
    return model
