"""Loads weights into a module.

A file's content, never its name, decides how it is loaded: a tensor `token_ids` marks a compact vocabulary.
"""

from __future__ import annotations

from pathlib import Path

import torch
from open_clip.pretrained import get_pretrained_cfg
from torch import nn

from pseudoris.schemas.config import WeightsConfig
from pseudoris.schemas.errors import ConfigError
from pseudoris.workers.checkpoints.compact_vocabulary import expand_vocabulary
from pseudoris.workers.checkpoints.tensor_files import load_tensors
from pseudoris.workers.checkpoints.weight_catalogue import OPEN_CLIP_PREFIX, split_tag
from pseudoris.workers.checkpoints.weight_files import local_file, verified_digest

_SHOWN_KEYS = 4


def load_into(module: nn.Module, weights: WeightsConfig) -> str:
    """Load a weights file into a module and return the file's sha256. The tensors of both must match exactly.

    Raises:
        ConfigError: The file is missing, unreadable, has another digest, or is for another architecture.
    """
    path = local_file(weights)
    digest = verified_digest(weights, path)
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
    name, tag = split_tag(weights)
    wanted = bool((get_pretrained_cfg(name, tag) or {}).get("quick_gelu", False))
    if wanted != bool(model_config.get("quick_gelu", False)):
        remedy = f"{architecture}-quickgelu" if wanted else architecture.removesuffix("-quickgelu")
        raise ConfigError(
            f"weights '{weights.uri}' were trained {'with' if wanted else 'without'} QuickGELU, and architecture "
            f"'{architecture}' is {'without' if wanted else 'with'} it: set architecture to '{remedy}'"
        )


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
