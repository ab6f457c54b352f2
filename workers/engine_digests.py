"""Digests of what our engines load, and the kind of device, for a run's identity; only the latter may load torch.

Importing an engine loads torch and open_clip, which takes seconds. `pseudoris.workers.stages` asks here for the engines
of this package, and the classes of other engines themselves.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from pseudoris.schemas.config import CaptionsConfig, ComputeConfig, FilterConfig, MasksConfig, PriorConfig
from pseudoris.schemas.errors import ConfigError, gather
from pseudoris.workers.checkpoints.sam_architectures import sam_architecture
from pseudoris.workers.checkpoints.weight_files import weights_digest
from pseudoris.workers.filtering.spacy_nouns import pipeline_digest
from pseudoris.workers.locations import open_location


def sam_digest(config: MasksConfig) -> str:
    """Return the sha256 of SAM's weights; with an instance prior, the sha256 of both files' digests.

    Raises:
        ConfigError: The weights, the prior or the architecture are missing; the message names all that are.
    """
    weights, prior, _ = gather(
        partial(weights_digest, config.weights),
        partial(prior_digest, config.prior),
        partial(sam_architecture, config.architecture),
    )
    return str(weights) if prior is None else _combined(weights, prior)


def coca_digest(config: CaptionsConfig) -> str:
    """Return the sha256 of CoCa's weights. Raises: ConfigError: They are missing."""
    return weights_digest(config.weights)


def clip_digest(config: FilterConfig) -> str:
    """Return the sha256 of CLIP's weights; with a spaCy pipeline of choice, the sha256 of both digests.

    Raises:
        ConfigError: The weights, spaCy or its pipeline are missing; the message names all that are.
    """
    weights, pipeline = gather(partial(weights_digest, config.weights), partial(pipeline_digest, config))
    return str(weights) if pipeline is None else _combined(weights, pipeline)


def prior_digest(config: PriorConfig) -> str | None:
    """Return the sha256 of the prior's file, or None for `none`.

    Raises:
        ConfigError: The prior's kind is `unset`, or its file cannot be read.
    """
    config.check_is_set()
    if config.kind == "none" or config.path is None:
        return None
    try:
        with open_location(config.path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"prior.path={config.path} cannot be read: {error}") from error


def _combined(first: object, second: object) -> str:
    return hashlib.sha256(f"{first} {second}".encode()).hexdigest()


# By the value of the entry point, so that another package's engine of the same name is asked itself.
DIGESTS: Final[Mapping[str, Callable[[Any], str]]] = {
    "pseudoris.workers.masks:SamProposer": sam_digest,
    "pseudoris.workers.captions:CocaCaptioner": coca_digest,
    "pseudoris.workers.filtering:ClipScorer": clip_digest,
}


def device_kind(compute: ComputeConfig) -> str:
    """Return the GPU's name, the CPU's architecture and vector capability, or `none` if no engine needs torch.

    Raises:
        ConfigError: compute.device=cuda, but torch sees no GPU.
    """
    if compute.device == "none":
        return "none"
    if compute.device == "cuda":
        # Imported here, not at the top: processes without models do not pay torch's load time and memory.
        import torch

        from pseudoris.workers.device import prepare_device

        prepare_device(compute)
        return torch.cuda.get_device_name()
    return f"cpu {platform.machine()} {_vector_capability()}"


def _vector_capability() -> str:
    """Return torch's name of the vector instructions that it uses: its own answer where torch is loaded.

    The process that starts a run does not use torch, which takes seconds to load. On x86-64 Linux it applies torch's
    rule (aten/src/ATen/native/DispatchStub.cpp); the processes that compute compare the answer with torch's own.
    """
    has_rule = sys.platform == "linux" and platform.machine() == "x86_64" and "ATEN_CPU_CAPABILITY" not in os.environ
    if "torch" in sys.modules or not has_rule:
        import torch

        return torch.backends.cpu.get_cpu_capability()
    flags = _cpu_flags()
    if {"avx512vl", "avx512bw", "avx512dq", "fma"} <= flags:
        return "AVX512"
    return "AVX2" if {"avx2", "fma"} <= flags else "DEFAULT"


def _cpu_flags() -> set[str]:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return set(next((line for line in lines if line.startswith("flags")), "").split())
