"""Reads the bytes of a planned shard; each image decodes, or is quarantined with a reason.

An image error becomes a failure of that image. A storage error ends the attempt.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Protocol

from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.errors import ImageError, TransientError
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.run_records import PlanEntry
from pseudoris.schemas.shard import Failure, Shard, ShardImage
from pseudoris.store.sources.planned_images import Outcome, read_entries
from pseudoris.store.sources.root import SourceRoot
from pseudoris.store.sources.source import open_root

logger = logging.getLogger(__name__)

STAGE_READ: Final = "read"


class Prover(Protocol):
    """Checks that an image decodes; the decoders are in `workers`."""

    def prove(self, data: bytes) -> tuple[int, int]:
        """Return the upright (height, width) of an encoded image. Raises: ImageError: it does not decode."""


def read_shard(
    source: str, config: RunConfig, entries: Sequence[PlanEntry], *, prover: Prover, generation: int = 0
) -> Shard:
    """Return the shard of `entries` with bytes, digests and upright sizes; broken images are quarantined.

    Missing images are looked up again after all others have been read.

    Args:
        source: The present SOURCE; keys are relative to its root.
        config: Its `source` and `images` are used.
        entries: The shard's plan, or the part that is retried, in order; at least one entry.
        prover: Decodes each image in a process that may crash.
        generation: Generation of the shard.

    Raises:
        ConfigError: SOURCE itself no longer exists.
        TransientError: The storage failed, or the decoding process was killed from outside.
    """
    started = time.perf_counter()
    root = open_root(source, config.source, config.placement.storage)
    outcomes = dict(read_entries(root, entries, config))
    missing = [entry for entry in entries if _is_missing(outcomes[entry.position])]
    if missing:
        outcomes.update(read_entries(root, missing, config))
        _check_root(root)
    images = tuple(_prove(entry, outcomes[entry.position], prover) for entry in entries)
    shard = Shard(entries[0].shard, generation, images)
    return shard.with_seconds(STAGE_READ, time.perf_counter() - started)


def _is_missing(outcome: Outcome) -> bool:
    return isinstance(outcome, ImageError) and outcome.reason == "missing"


def _check_root(root: SourceRoot) -> None:
    # Otherwise a disk that is no longer mounted would quarantine every image.
    if root.kind("") != "folder":
        raise TransientError(f"SOURCE is gone: {root.describe()}. Restore it, then run the same command again")


def _prove(entry: PlanEntry, outcome: Outcome, prover: Prover) -> ShardImage:
    image = ShardImage(position=entry.position, image_id=entry.image_id, key=entry.key)
    if isinstance(outcome, ImageError):
        return _quarantined(image, outcome)
    image = replace(image, data=outcome, sha256=sha256_hex(outcome))
    try:
        height, width = prover.prove(outcome)
    except ImageError as error:
        return _quarantined(image, error)
    return replace(image, height=height, width=width)


def _quarantined(image: ShardImage, error: ImageError) -> ShardImage:
    logger.info("Image %s is quarantined as %s: %s", image.key, error.reason, error.message)
    return image.quarantined(Failure(STAGE_READ, error.reason, error.message))
