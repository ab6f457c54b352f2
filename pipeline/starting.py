"""What one start of a run is asked to do, and whether that makes sense for what stands there."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.cluster import named_cluster
from schemas.config import RunConfig
from schemas.errors import ConfigError
from store.header import check_origin, read_header, require_header
from store.location import RunLocation


@dataclass(frozen=True, slots=True)
class Start:
    """What one start of a run is to do, beyond going on with its plan.

    Attributes:
        limit: Plan the first so many images only. A plan that stands is not changed by it.
        is_extension: List SOURCE again and plan what it has gained.
        is_retry: Compute the images in quarantine again, and nothing else.
        reasons: With `is_retry`, only those quarantined for one of these; None for all.
    """

    limit: int | None = None
    is_extension: bool = False
    is_retry: bool = False
    reasons: frozenset[str] | None = None


def check_start(location: RunLocation, start: Start) -> None:
    """Accept `start` where it makes sense for what stands in `location`.

    Raises:
        ConfigError: There is no run to retry or to extend, another command made it, or the options exclude each other.
        TransientError: Storage failed.
    """
    if start.is_extension and start.is_retry:
        raise ConfigError("--retry-failed computes quarantined images alone: give it and --extend one after the other")
    if start.reasons is not None and not start.is_retry:
        raise ConfigError("--retry-reasons says what --retry-failed retries: give both")
    is_old = start.is_extension or start.is_retry
    header = require_header(location) if is_old else read_header(location)
    if header is not None:
        check_origin(location, header, "annotate")


def check_packages_here(config: RunConfig) -> None:
    """Accept a config whose optional packages this machine has: before Ray, and long before the actors that use them.

    Of a cluster that is named the nodes alone must have them, and tell it themselves.

    Raises:
        ConfigError: One is not installed.
    """
    if config.filtering.nouns == "spacy" and named_cluster(config.placement.address) is None:
        from workers.filtering.spacy_nouns import check_spacy  # only where it is asked for: an extra, beside torch

        check_spacy()
