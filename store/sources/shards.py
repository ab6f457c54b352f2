"""A planned shard's bytes, each image proven to decode; or the reason why it is quarantined.

What is wrong with an image becomes a failure of that image. What is wrong with the storage ends the attempt.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Protocol

from schemas.config import RunConfig
from schemas.errors import ImageError, TransientError
from schemas.ids import sha256_hex
from schemas.plan import PlanEntry
from schemas.shard import Failure, Shard, ShardImage
from store.sources.items import Storage
from store.sources.opening import open_root
from store.sources.reading import Outcome, read_entries

logger = logging.getLogger(__name__)

STAGE_READ: Final = "read"


class Prover(Protocol):
    """What proves that an image decodes; decoders live with the workers."""

    def prove(self, data: bytes) -> tuple[int, int]:
        """Return the upright (height, width) of an encoded image. Raises: ImageError: it does not decode."""


def read_shard(
    source: str, config: RunConfig, entries: Sequence[PlanEntry], *, prover: Prover, generation: int = 0
) -> Shard:
    """Return the shard of `entries` with bytes, digests and upright sizes; broken images are quarantined.

    Images that are not there get a second look when all others have been read.

    Args:
        source: SOURCE as given now; keys are relative to its root.
        config: Its `source` and `images` are read.
        entries: The shard's plan, or the part of it that is retried, in order; at least one.
        prover: Decodes each image in a process that may die.
        generation: Of the shard.

    Raises:
        ConfigError: SOURCE itself does not exist any more.
        TransientError: The storage failed, or the proving process was ended from outside.
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


def _check_root(root: Storage) -> None:
    # A disk that is not mounted any more would quarantine every image.
    if root.kind("") != "folder":
        raise TransientError(f"SOURCE is gone: {root.describe()}; bring it back, then run the same command again")


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
    logger.info("image %s is quarantined as %s: %s", image.key, error.reason, error.message)
    return image.quarantined(Failure(STAGE_READ, error.reason, error.message))
