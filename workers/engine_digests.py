"""Digests of what our engines load. Importing an engine loads torch and open_clip, which takes seconds; this does not.

`pseudoris.workers.stages` asks here for the engines of this package, and the classes of other engines themselves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from pseudoris.schemas.config import CaptionsConfig, FilterConfig, MasksConfig, PriorConfig
from pseudoris.schemas.errors import ConfigError, gather
from pseudoris.workers.checkpoints.weight_files import weights_digest
from pseudoris.workers.filtering.spacy_nouns import pipeline_digest
from pseudoris.workers.locations import open_location


def sam_digest(config: MasksConfig) -> str:
    """Return the sha256 of SAM's weights; with an instance prior, the sha256 of both files' digests.

    Raises:
        ConfigError: The weights or the prior are missing; the message names both if both are.
    """
    weights, prior = gather(partial(weights_digest, config.weights), partial(prior_digest, config.prior))
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
