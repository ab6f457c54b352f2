"""The options of one session of a run, and whether they fit the run in OUT."""

from __future__ import annotations

from dataclasses import dataclass, field

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.run_records import RunHeader
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import check_origin, read_header, require_header
from pseudoris.store.runs.stored_exclusions import check_exclusions, stored_exclusions
from pseudoris.store.sources.exclusions import Exclusions


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What one session of a run does, besides continuing its plan.

    Attributes:
        limit: Plan only the first `limit` images. It does not change an existing plan.
        is_extension: List SOURCE again and plan its new images.
        is_retry: Compute the quarantined images again, and nothing else.
        reasons: With `is_retry`, only images quarantined for one of these reasons; None for all.
        exclusions: Images that a new run leaves out; of an existing run they must be the same, or none.
    """

    limit: int | None = None
    is_extension: bool = False
    is_retry: bool = False
    reasons: frozenset[str] | None = None
    exclusions: Exclusions = field(default_factory=Exclusions)


def check_options(location: RunLocation, options: RunOptions) -> None:
    """Accept `options` if they fit the run in `location`, if there is one.

    Raises:
        ConfigError: There is no run to retry or to extend, another command made it, it excludes other images, or two
            options exclude each other.
        TransientError: Storage failed.
    """
    if options.is_extension and options.is_retry:
        raise ConfigError(
            "--retry-failed only computes quarantined images, so it excludes --extend: run the command once with each"
        )
    if options.reasons is not None and not options.is_retry:
        raise ConfigError("--retry-reasons selects what --retry-failed retries: give both, or neither")
    is_old = options.is_extension or options.is_retry
    header = require_header(location) if is_old else read_header(location)
    if header is not None:
        check_origin(location, header, "annotate")
        check_exclusions(header, options.exclusions)


def sampled_without(location: RunLocation, header: RunHeader | None, options: RunOptions) -> Exclusions | None:
    """Return what a sample of SOURCE leaves out; None if none is asked: this session plans no images.

    A run that went on with `--accept-domain` before is not asked again.

    Raises:
        ConfigError: The rules that the run excludes images by are damaged.
    """
    if header is None:
        return options.exclusions
    is_accepted = header.domain is not None and header.domain.is_accepted
    return stored_exclusions(location, header) if options.is_extension and not is_accepted else None
