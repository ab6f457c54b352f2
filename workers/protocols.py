"""What a stage is, and how another model takes its place: three protocols, found by entry point.

A plug-in package declares, for instance

    [project.entry-points."pseudoris.captioners"]
    blip = "my_package.blip:BlipCaptioner"

and a run asks for it with `--set captions.engine=blip`; its own settings stand in `captions.options`.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any, Protocol, cast

from schemas.config import CaptionsConfig, ComputeConfig, FilterConfig, MasksConfig
from schemas.errors import ConfigError
from schemas.shard import Shard

STAGE_PROPOSE = "propose"
STAGE_CAPTION = "caption"
STAGE_FILTER = "filter"


class Proposer(Protocol):
    """Images in, masks out. Construction loads the model; a call never changes its argument."""

    def __init__(self, config: MasksConfig, compute: ComputeConfig) -> None:
        """Load the model, or raise `ConfigError` with the remedy."""

    def __call__(self, shard: Shard) -> Shard:
        """Return the shard with `masks` set on every image that is not quarantined."""

    @classmethod
    def weights_digest(cls, config: MasksConfig) -> str:
        """Return the sha256 of the weights that `config` names, without loading the model."""


class Captioner(Protocol):
    """Masks in, candidate expressions out."""

    def __init__(self, config: CaptionsConfig, compute: ComputeConfig) -> None:
        """Load the model, or raise `ConfigError` with the remedy."""

    def __call__(self, shard: Shard) -> Shard:
        """Return the shard with `expressions` set, unscored, equal texts of one mask merged."""

    @classmethod
    def weights_digest(cls, config: CaptionsConfig) -> str:
        """Return the sha256 of the weights that `config` names, without loading the model."""


class Scorer(Protocol):
    """Candidate expressions in, the same with scores and `kept` out."""

    def __init__(self, config: FilterConfig, compute: ComputeConfig) -> None:
        """Load the model, or raise `ConfigError` with the remedy."""

    def __call__(self, shard: Shard) -> Shard:
        """Return the shard with every expression scored."""

    @classmethod
    def weights_digest(cls, config: FilterConfig) -> str:
        """Return the sha256 of the weights that `config` names, without loading the model."""


def find_proposer(config: MasksConfig) -> type[Proposer]:
    """Return the proposer class that `masks.engine` names. Raises: ConfigError: none has that name."""
    return cast(type[Proposer], _find("pseudoris.proposers", config.engine, "masks.engine"))


def find_captioner(config: CaptionsConfig) -> type[Captioner]:
    """Return the captioner class that `captions.engine` names. Raises: ConfigError: none has that name."""
    return cast(type[Captioner], _find("pseudoris.captioners", config.engine, "captions.engine"))


def find_scorer(config: FilterConfig) -> type[Scorer]:
    """Return the scorer class that `filtering.engine` names. Raises: ConfigError: none has that name."""
    return cast(type[Scorer], _find("pseudoris.scorers", config.engine, "filtering.engine"))


def _find(group: str, name: str, setting: str) -> Any:
    found = {entry.name: entry for entry in entry_points(group=group)}
    if name not in found:
        known = ", ".join(sorted(found)) or "none; is the package installed?"
        raise ConfigError(f"{setting}={name!r}: no engine of that name in entry points {group!r} (known: {known})")
    try:
        return found[name].load()
    except ImportError as error:
        raise ConfigError(f"{setting}={name!r}: {found[name].value} cannot be imported: {error}") from error
