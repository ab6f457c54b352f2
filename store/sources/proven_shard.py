"""Reads a planned shard; bad images are quarantined. For `pipeline`, `training/ppt` and `interchange`.

An image error becomes a failure of that image; a storage error must end the attempt. A refusal may be either: a file
without read permission and credentials that expire give the same answer. So a refused image is asked for again after a
minute. It is quarantined only if the store then refuses it, and gives another image to the same credentials.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, Final, Protocol

from pseudoris.images.prover import Prover
from pseudoris.images.tiles import Tile, marks_of
from pseudoris.primitives.errors import ImageError, RefusedError, TransientError
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.run_records import PlanEntry
from pseudoris.schemas.shard import Failure, Proof, Shard, ShardImage
from pseudoris.store.sources.planned_images import Outcome, Reading, read_or_refused
from pseudoris.store.sources.root import SourceRoot
from pseudoris.store.sources.source import open_root

logger = logging.getLogger(__name__)

# Refused images are read again after this many seconds, in which credentials can be renewed.
AGAIN_AFTER_S: Final = 60.0


def settle_refusals(
    root: SourceRoot,
    config: RunConfig,
    *,
    entries: Sequence[PlanEntry],
    readings: Mapping[int, Reading],
    others: Iterable[PlanEntry] = (),
) -> dict[int, Outcome]:
    """Return the outcome of each position; an image that is refused again, but not its store, becomes a failure.

    `others` are read if no image of the shard shows that its store still gives any. TransientError if a store refuses
    all that is asked of it, or failed.
    """
    refused = _refused(entries, readings)
    if refused:
        logger.warning("Access to %d images was refused. Trying again in %.0f s.", len(refused), AGAIN_AFTER_S)
        time.sleep(AGAIN_AFTER_S)
        again = read_or_refused(root, refused, config)
        readings = {**readings, **{reading.position: reading for reading in again}}
        refused = _refused(entries, readings)
    giving: set[str] = set()
    num_known = Counter(reading.store for reading in readings.values())
    if refused:
        wanted = {readings[entry.position].store for entry in refused}
        # One readable image of each store is read again, to see whether the store still gives images.
        given = [entry for entry in reversed(entries) if isinstance(readings[entry.position].outcome, bytes)]
        for entry in chain({readings[entry.position].store: entry for entry in given}.values(), others):
            (witness,) = read_or_refused(root, [entry], config)
            num_known[witness.store] += 1
            if isinstance(witness.outcome, bytes):
                giving.add(witness.store)
            if wanted <= giving:
                break
    outcomes: dict[int, Outcome] = {}
    for at, reading in readings.items():
        outcome, store = reading.outcome, reading.store
        if isinstance(outcome, RefusedError):
            # A single row of a table may name a store that nothing else is in. Then any other image shows that the
            # machine and its network are well.
            is_alone = num_known[store] == 1
            if store not in giving and not (giving and (is_alone or outcome.any_store)):
                raise TransientError(
                    f"{outcome} (refused twice, {AGAIN_AFTER_S:.0f} s apart, and no other image of the same store can "
                    "be read)"
                ) from outcome
            outcome = outcome.failure
        outcomes[at] = outcome
    return outcomes


def _refused(entries: Sequence[PlanEntry], readings: Mapping[int, Reading]) -> list[PlanEntry]:
    return [entry for entry in entries if isinstance(readings[entry.position].outcome, RefusedError)]


STAGE_READ: Final = "read"


class ContentRules(Protocol):
    """Which images a run leaves out by what is in them: the store's `ExclusionMatcher`."""

    def check(self, *marks: str | None) -> None:
        """Raises: ImageError (excluded): a rule knows the image."""


def read_shard(
    source: str,
    config: RunConfig,
    entries: Sequence[PlanEntry],
    *,
    prover: Prover,
    generation: int = 0,
    others: Iterable[PlanEntry] = (),
    exclusions: ContentRules | None = None,
) -> Shard:
    """Return the shard of `entries` with bytes, digests and upright sizes; broken images are quarantined.

    Missing images are looked up again after all others have been read, refused ones after a minute.

    Args:
        source: The present SOURCE; keys are relative to its root.
        config: Its `source`, `images` and `placement.storage` are used.
        entries: The shard's plan, or the part that is retried, in order; at least one entry.
        prover: Decodes each image in a process that may crash.
        generation: Generation of the shard.
        others: A few more images of the plan. They are only read if images are refused, to see whether SOURCE is.
        exclusions: Images that it knows by their content are quarantined as `excluded`.

    Raises:
        ConfigError: SOURCE itself no longer exists.
        TransientError: The storage failed or refused access, or the decoding process was killed from outside.
    """
    started = time.perf_counter()
    outcomes = read_settled(source, config, entries, others=others)
    proven = partial(_prove, prover=prover, exclusions=exclusions, has_phash=config.images.phash)
    images = tuple(proven(entry, outcomes[entry.position]) for entry in entries)
    shard = Shard(entries[0].shard, generation, images)
    return shard.with_seconds(STAGE_READ, time.perf_counter() - started)


def read_settled(
    source: str, config: RunConfig, entries: Sequence[PlanEntry], *, others: Iterable[PlanEntry] = ()
) -> dict[int, Outcome]:
    """Return what comes of reading each of the `entries` of a shard, by position; takes and raises as `read_shard`."""
    root = open_root(source, config.source, config.placement.storage)
    readings = {reading.position: reading for reading in read_or_refused(root, entries, config)}

    def failed(*reasons: str) -> list[PlanEntry]:
        found = ((entry, readings[entry.position].outcome) for entry in entries)
        return [entry for entry, each in found if isinstance(each, ImageError) and each.reason in reasons]

    readings |= {reading.position: reading for reading in read_or_refused(root, failed("missing"), config)}
    # The root of SOURCE is checked, because an unmounted disk would otherwise quarantine every image.
    if failed("missing", "unreadable") and root.kind("") != "folder":
        raise TransientError(f"SOURCE is gone: {root.describe()}. Restore it, then run the same command again")
    return settle_refusals(root, config, entries=entries, readings=readings, others=others)


def _prove(
    entry: PlanEntry, outcome: Outcome, *, prover: Prover, exclusions: ContentRules | None, has_phash: bool
) -> ShardImage:
    image = partial(ShardImage, position=entry.position, image_id=entry.image_id, key=entry.key)
    if isinstance(outcome, ImageError):
        return _quarantined(image(), outcome)
    sha256 = sha256_hex(outcome)
    try:
        if exclusions is not None:
            # Rules by sha256 are checked first, because they need no decoding.
            exclusions.check(sha256)
        proof = prover.prove(outcome)
        picture = _of_picture(entry.key, outcome, proof)
        if exclusions is not None:
            exclusions.check(sha256, proof.phash, picture.get("picture_sha256"), picture.get("picture_phash"))
    except ImageError as error:
        return _quarantined(image(sha256=sha256), error)
    height, width = proof.size
    # A rule may have asked for a hash that the table is to leave out.
    phash = proof.phash if has_phash else None
    known = {"note": proof.note, "phash": phash, "levels": proof.levels, **picture}
    return image(data=outcome, sha256=sha256, height=height, width=width, **known)


def _of_picture(key: str, data: bytes, proof: Proof) -> dict[str, Any]:
    """Return what is known of the picture that an image is a tile of; nothing if its name or size is of no tile."""
    tile = Tile.named(key)
    if tile is None or tile.size != proof.size:
        return {}
    found = dict(zip(("picture_sha256", "picture_phash"), marks_of(data), strict=True))
    return {"picture": tile.picture, "tile_xyxy_px": tile.box_xyxy_px, "picture_size": tile.picture_size, **found}


def _quarantined(image: ShardImage, error: ImageError) -> ShardImage:
    logger.info("Image %s is quarantined as %s: %s", image.key, error.reason, error.message)
    return image.quarantined(Failure(STAGE_READ, error.reason, error.message))
