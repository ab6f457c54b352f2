"""Builds and loads CoCa and CLIP. Called by the engines, `training` and `evidence`.

Models must be open_clip's own, so that published weights give published results.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.pretrained import get_pretrained_cfg
from torch import nn

from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import WeightsConfig
from pseudoris.workers.checkpoints.model_configs import read_model_config as read_model_config
from pseudoris.workers.checkpoints.tensor_files import load_module
from pseudoris.workers.checkpoints.weight_cache import OPEN_CLIP_PREFIX, split_tag


def build_from_config(config: dict[str, Any]) -> nn.Module:
    """Return an open_clip model in eval mode with fresh weights; a CoCa if the config has a multimodal decoder."""
    arguments = {key: value for key, value in config.items() if key != "custom_text"}
    try:
        if "multimodal_cfg" in config:
            model: nn.Module = CoCa(**arguments)
            # open_clip 3.3 allocates this projection of the decoder but does not initialise it, so that is done here.
            projection = model.get_parameter("text_decoder.text_projection")
            nn.init.normal_(projection, std=projection.shape[0] ** -0.5)
        elif config.get("custom_text"):
            model = CustomTextCLIP(**arguments)
        else:
            model = CLIP(**arguments)
    except (TypeError, ValueError, AssertionError, AttributeError, ZeroDivisionError) as error:
        # open_clip does not check a config, so a wrong config raises any of these types.
        raise ConfigError(
            f"open_clip cannot build this architecture ({type(error).__name__}: {error}): correct its config"
        ) from error
    return model.eval()


def load_coca(architecture: str | None, weights: WeightsConfig) -> CoCa:
    """Return a CoCa in eval mode, float32, on the CPU; `architecture` as in `captions.architecture`."""
    config = read_model_config(architecture, is_captioner=True)
    check_activation(architecture, config, weights)
    return cast("CoCa", load_module(partial(build_from_config, config), weights))


def load_clip(architecture: str, weights: WeightsConfig) -> CLIP | CustomTextCLIP:
    """Return a CLIP in eval mode, float32, on the CPU; `architecture` as in `filtering.architecture`."""
    config = read_model_config(architecture, is_captioner=False)
    check_activation(architecture, config, weights)
    return cast("CLIP | CustomTextCLIP", load_module(partial(build_from_config, config), weights))


def tag_settings(weights: WeightsConfig) -> dict[str, Any]:
    """Return what open_clip knows of a hub tag, such as mean and std of its input; {} for all other weights."""
    is_tag = weights.uri.startswith(OPEN_CLIP_PREFIX)
    return (get_pretrained_cfg(*split_tag(weights)) or {}) if is_tag else {}


def check_activation(architecture: str | None, model_config: dict[str, object], weights: WeightsConfig) -> None:
    """Reject a hub tag if it and the architecture differ in QuickGELU: it would load, and give wrong results."""
    settings = tag_settings(weights)
    wanted = bool(settings.get("quick_gelu", False))
    if settings and wanted != bool(model_config.get("quick_gelu", False)):
        remedy = f"{architecture}-quickgelu" if wanted else str(architecture).removesuffix("-quickgelu")
        raise ConfigError(
            f"weights '{weights.uri}' were trained {'with' if wanted else 'without'} QuickGELU, and architecture "
            f"'{architecture}' is {'without' if wanted else 'with'} it: set architecture to '{remedy}'"
        )
