"""What `pseudoris weights` says of each file: facts, where it was found, and whether it is what it must be."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from pseudoris.schemas.config import WeightsConfig
from pseudoris.schemas.errors import ConfigError
from pseudoris.workers.checkpoints.weight_cache import Pin, file_sha256, user_cache
from pseudoris.workers.checkpoints.weight_catalogue import (
    BUILTIN_PREFIX,
    RANDOM_PREFIX,
    SEE_SOURCE,
    cached_names,
    published_file,
)
from pseudoris.workers.checkpoints.weight_files import expected_sha256, found_file, local_file, missing, source_url

MODEL_CARD: Final = "tiny/MODEL_CARD.md"
_UNKNOWN: Final = "known once it is fetched"


@dataclass(frozen=True, slots=True)
class WeightFacts:
    """What is known of a weights file without a network.

    Attributes:
        name: Its path relative to the cache, or the configured uri.
        licence: Of the weights.
        size: In bytes, as text.
        sha256: 64 hex digits, or why there are none.
        source: A url, or where the file comes from.
        found: Where it lies here; None if it is missing.
    """

    name: str
    licence: str
    size: str
    sha256: str
    source: str
    found: Path | None


@dataclass(frozen=True, slots=True)
class WeightCheck:
    """Whether a weights file is here and right, and what was found or must be done."""

    is_ok: bool
    detail: str


def is_shipped(weights: WeightsConfig) -> bool:
    """Return whether nothing needs to be fetched: a file of this package, or weights that are drawn."""
    return weights.uri.startswith((BUILTIN_PREFIX, RANDOM_PREFIX))


def weight_facts(weights: WeightsConfig) -> WeightFacts:
    """Return what is known of a weights file.

    Raises:
        ConfigError: open_clip knows no such tag, or the cache cannot be read.
    """
    if weights.uri.startswith(RANDOM_PREFIX):
        return WeightFacts(weights.uri, "–", "–", "–", "drawn at random: untrained", None)
    found = _found(weights)
    published, pin = published_file(weights), _pin(weights)
    size = found.stat().st_size if found else (published.size_bytes if published else None) or (pin and pin.size_bytes)
    sha256 = weights.sha256 or (published.sha256 if published else None) or (pin.sha256 if pin else None)
    shown_size = f"{size:,} bytes" if size else _UNKNOWN
    if is_shipped(weights):
        card = files("pseudoris.workers.checkpoints").joinpath(MODEL_CARD)
        return WeightFacts(
            weights.uri, "Apache-2.0", shown_size, sha256 or "–", f"shipped in the package: {card}", found
        )
    if published is None:
        return WeightFacts(weights.uri, SEE_SOURCE, shown_size, sha256 or "not given", "your own file", found)
    name = next((each for each in published.names if found and Path(each).name == found.name), published.names[0])
    return WeightFacts(name, published.licence, shown_size, sha256 or _UNKNOWN, source_url(published), found)


def check_weights(weights: WeightsConfig, preset: str = "") -> WeightCheck:
    """Return whether the file is here and has the digest that it must have. The network is not asked.

    A person's own file in the working folder under a published file's name is used by a run, and told here. `preset` is
    the preset that is checked, if it is one.

    Raises:
        ConfigError: The cache cannot be read.
    """
    if weights.uri.startswith(RANDOM_PREFIX):
        return WeightCheck(True, "drawn at random")
    try:
        found = _found(weights)
    except ConfigError as error:
        return WeightCheck(False, str(error))
    if found is None:
        return WeightCheck(False, missing(weights, "there is no such file", preset))
    published = published_file(weights)
    known = expected_sha256(weights, found) or (published.sha256 if published else None)
    sha256 = file_sha256(found)
    if known is None:
        return WeightCheck(True, f"{found}  sha256 {sha256}, no digest to compare it with")
    if sha256 == known:
        return WeightCheck(True, f"{found}  sha256 {sha256}, as it must be")
    remedy = "a run in this folder uses it" if found == Path(weights.uri) else "get it again"
    return WeightCheck(False, f"{found} has sha256 {sha256}, expected {known}: it is not the published file; {remedy}")


def _found(weights: WeightsConfig) -> Path | None:
    return local_file(weights) if is_shipped(weights) else found_file(weights)


def _pin(weights: WeightsConfig) -> Pin | None:
    pins = (user_cache().pin(name) for name in cached_names(weights))
    return next((pin for pin in pins if pin is not None), None)
