"""What the error for missing weights says: the command that gets them, and how to get them by hand."""

from __future__ import annotations

from pseudoris.schemas.config import RunConfig, WeightsConfig
from pseudoris.schemas.config_layers import load_config, preset_names
from pseudoris.schemas.errors import ConfigError
from pseudoris.workers.checkpoints.weight_cache import WeightCache, user_cache
from pseudoris.workers.checkpoints.weight_catalogue import (
    BUILTIN_PREFIX,
    HubSource,
    PublishedFile,
    published_file,
)


class MissingWeightsError(ConfigError):
    """Weights are missing; the message says how to get them."""

    def __init__(self, weights: WeightsConfig, why: str, preset: str = "") -> None:
        """Keep what is missing; `preset` is the preset of the run, if it is known."""
        super().__init__(missing(weights, why, preset))
        self._weights, self._why = weights, why

    def of_preset(self, preset: str) -> MissingWeightsError:
        """Return the error whose command gets all weights of `preset`, so that a run without any names one command."""
        return MissingWeightsError(self._weights, self._why, preset)

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str]]:
        """Return what pickle needs: the message alone."""
        return ConfigError, (str(self),)


def missing(weights: WeightsConfig, why: str, preset: str = "") -> str:
    """Return the message for weights that are missing, on one line: urls and commands in it can be copied."""
    remedies = [_command(weights, preset), weights.how_to_get]
    shown = "; or: ".join(filter(None, remedies)) or "put the file there, or set weights.uri to its path"
    return f"weights '{weights.uri}' are not available: {why}. To get them: {shown}{_by_hand(weights)}"


def unreachable(weights: WeightsConfig, why: str, cache: WeightCache) -> str:
    """Return the message for weights that `weights get` cannot get for want of a network."""
    return f"weights '{weights.uri}' are not available: {why}{_by_hand(weights, cache)}"


def source_url(published: PublishedFile) -> str:
    """Return the url from which a person can download the file."""
    if not isinstance(published.source, HubSource):
        return published.source
    # Imported here: it loads a client of the web, which only a missing file needs.
    from pseudoris.workers.checkpoints.hub import hub_url

    return hub_url(published.source)


def _command(weights: WeightsConfig, preset: str) -> str:
    """The command of this package that gets the weights, empty if none does."""
    if weights.uri.startswith(BUILTIN_PREFIX):
        return "reinstall the package, or train them in a clone: make weights"
    if published_file(weights) is None:
        return ""
    presets = [name for name in preset_names() if weights.uri in _uris(load_config(name))]
    # Two presets may have a file in common, and not the others.
    alone = presets[0] if len(presets) == 1 else weights.uri
    return f"pseudoris weights get {preset if preset in presets else alone}"


def _uris(config: RunConfig) -> set[str]:
    return {section.weights.uri for section in (config.masks, config.captions, config.filtering)}


def _by_hand(weights: WeightsConfig, cache: WeightCache | None = None) -> str:
    """Where a published file is, and where it belongs."""
    published = published_file(weights)
    if published is None:
        return ""
    target = (cache or user_cache()).path(published.names[0])
    facts = [f"{published.size_bytes:,} bytes"] if published.size_bytes else []
    facts += [f"sha256 {published.sha256}"] if published.sha256 else []
    known = f" ({', '.join(facts)})" if facts else ""
    return f". By hand: download {source_url(published)} and put it at {target}{known}{_or_else(published)}"


def _or_else(published: PublishedFile) -> str:
    if len(published.names) == 1 or not isinstance(published.source, HubSource):
        return ""
    return f"; if the repository has no such file, take {published.source.filenames[-1]} instead, and keep its name"
