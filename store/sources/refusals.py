"""Decides whether an image that a store refuses is to blame, or the store.

A file without read permission and credentials that expire give the same answer. So a refused image is asked for again
after a minute. It is quarantined only if the store then refuses it, and gives another image to the same credentials.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from itertools import chain
from typing import Final

from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.errors import RefusedError, TransientError
from pseudoris.schemas.run_records import PlanEntry
from pseudoris.store.sources.planned_images import Outcome, Reading, read_or_refused
from pseudoris.store.sources.root import SourceRoot

logger = logging.getLogger(__name__)

# Long enough for credentials that are being renewed. A shard with a refused image waits once.
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

    Args:
        root: The root that keys are relative to.
        config: As for `read_or_refused`.
        entries: Entries of one shard, in its order.
        readings: What came of each, by position.
        others: A few more images of the plan. They are read if none of the shard shows that the store still gives any.

    Raises:
        TransientError: A store refuses all that is asked of it, or failed.
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
        for entry in chain(_one_of_each_store(entries, readings), others):
            (witness,) = read_or_refused(root, [entry], config)
            num_known[witness.store] += 1
            if isinstance(witness.outcome, bytes):
                giving.add(witness.store)
            if wanted <= giving:
                break
    return {at: _verdict(reading, giving, num_known) for at, reading in readings.items()}


def _refused(entries: Sequence[PlanEntry], readings: Mapping[int, Reading]) -> list[PlanEntry]:
    return [entry for entry in entries if isinstance(readings[entry.position].outcome, RefusedError)]


def _one_of_each_store(entries: Sequence[PlanEntry], readings: Mapping[int, Reading]) -> list[PlanEntry]:
    """Return an entry of each store that gave one; a table's rows may be in several."""
    first: dict[str, PlanEntry] = {}
    for entry in entries:
        reading = readings[entry.position]
        if isinstance(reading.outcome, bytes):
            first.setdefault(reading.store, entry)
    return list(first.values())


def _verdict(reading: Reading, giving: Set[str], num_known: Mapping[str, int]) -> Outcome:
    """Return the outcome, with an image that its store refuses as a failure if the store gives others."""
    refusal = reading.outcome
    if not isinstance(refusal, RefusedError):
        return refusal
    # A single row of a table may name a store that nothing else is in. Then any other image shows that the machine and
    # its network are well.
    is_alone = num_known[reading.store] == 1
    if reading.store in giving or (giving and (is_alone or refusal.any_store)):
        return refusal.failure
    raise TransientError(
        f"{refusal} (refused twice, {AGAIN_AFTER_S:.0f} s apart, and no other image of the same store can be read)"
    ) from refusal
