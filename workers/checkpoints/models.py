"""Builds and loads the three models of a run. The stages load their models only through this module."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from segment_anything.modeling import Sam
from torch import nn

from pseudoris.schemas.config import SamArchitecture, WeightsConfig
from pseudoris.workers.checkpoints.openclip import build_clip, build_coca, read_model_config
from pseudoris.workers.checkpoints.sam import build_sam
from pseudoris.workers.checkpoints.weights import check_activation, load_into, random_seed

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def load_sam(architecture: SamArchitecture, weights: WeightsConfig) -> Sam:
    """Return a Sam in eval mode, float32, on the CPU.

    Raises:
        ConfigError: weights missing, damaged, or of another architecture.
    """
    return _loaded(lambda: build_sam(architecture), weights)


def load_coca(architecture: str, weights: WeightsConfig) -> CoCa:
    """Return a CoCa in eval mode, float32, on the CPU; `architecture` as in `captions.architecture`.

    Raises:
        ConfigError: unknown architecture, or weights missing, damaged, or of another architecture.
    """
    check_activation(architecture, read_model_config(architecture), weights)
    return _loaded(lambda: build_coca(architecture), weights)


def load_clip(architecture: str, weights: WeightsConfig) -> CLIP | CustomTextCLIP:
    """Return a CLIP in eval mode, float32, on the CPU; `architecture` as in `filtering.architecture`.

    Raises:
        ConfigError: unknown architecture, or weights missing, damaged, or of another architecture.
    """
    check_activation(architecture, read_model_config(architecture), weights)
    return _loaded(lambda: build_clip(architecture), weights)


def _loaded(build: Callable[[], ModuleT], weights: WeightsConfig) -> ModuleT:
    """Builds a module and loads its weights; `random:<seed>` draws them without changing torch's own generator."""
    seed = random_seed(weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed if seed is not None else 0)
        module = build()
    if seed is None:
        load_into(module, weights)
    return module.eval()
