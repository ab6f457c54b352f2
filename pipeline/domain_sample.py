"""Whether a preset's models know the images of SOURCE: scores a sample of them. Ray and torch are not imported.

The sample: up to 16 files, evenly spaced over the first 4,096 that are listed; if SOURCE has fewer files, of each tar
or table its first images, so that the sample has 16. Images that cannot be read or decoded are left out, and those that
the run excludes by name or sha256.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from pseudoris.images.pixels import decode_upright
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.domain import DomainRecord
from pseudoris.schemas.errors import ConfigError, ImageError, PseudorisError
from pseudoris.schemas.ids import sha256_hex
from pseudoris.store.files.storage import StoredFile
from pseudoris.store.runs.receipts import spread_evenly
from pseudoris.store.runs.shard_assignment import assign_shards
from pseudoris.store.sources import Source, SourceItem
from pseudoris.store.sources.exclusions import Exclusions, RecordedImageMatcher
from pseudoris.store.sources.planned_images import read_or_refused
from pseudoris.store.sources.source import Format
from pseudoris.workers.domain import load_scorer

NUM_SAMPLED: Final = 16
# Four pages of a bucket's listing.
_NUM_LISTED: Final = 4_096
# Of pictures of 100 megapixels a few must do: a run waits for the answer.
_PATIENCE_S: Final = 10.0


def judge_sample(
    config: RunConfig,
    source: Source,
    *,
    exclusions: Exclusions | None = None,
    decoding: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> DomainRecord | None:
    """Return what a sample of `source` says; None if the preset has no score, or no image of the sample can be decoded.

    Args:
        config: The configuration of the session.
        source: SOURCE.
        exclusions: Of the run; rules by perceptual hash are ignored.
        decoding: Entered around the work on each image, which may hang a decoder.

    Raises:
        ConfigError: The preset's statistics or weights are missing or damaged.
    """
    score = load_scorer(config)
    if score is None:
        return None
    max_score, began_s = score.statistics.max_score, time.monotonic()
    scores: list[float] = []
    try:
        for data in _sampled_bytes(source, config, RecordedImageMatcher(exclusions or Exclusions())):
            try:
                with decoding():
                    scores.append(score(decode_upright(data, config.images)))
            except (ImageError, MemoryError):
                continue
            if time.monotonic() - began_s > _PATIENCE_S:
                break
    except PseudorisError:
        # The listing of the run reports what is wrong with SOURCE, and in full.
        pass
    if not scores:
        return None
    return DomainRecord(
        num_sampled=len(scores),
        num_outside=sum(each > max_score for each in scores),
        max_score=round(max_score, 3),
        median_score=round(statistics.median(scores), 3),
    )


def accepted_domain(
    found: DomainRecord | None, config: RunConfig, notify: Callable[[str], None] = lambda text: None
) -> DomainRecord | None:
    """Return what the run's header records of `found`; tell `notify` if a part of the sample is outside.

    Raises:
        ConfigError: Most of the sample is outside, and `placement.accept_domain` is off.
    """
    if found is None or not found.num_outside:
        return found
    if found.is_mostly_outside and not config.placement.accept_domain:
        raise ConfigError(
            f"the preset {config.preset!r} does not know images like those of SOURCE: {found.finding}. Its masks and "
            "captions would be nonsense. Use a preset for such images (photographs: --preset base), or go on all the "
            "same with --accept-domain"
        )
    record = found.model_copy(update={"is_accepted": found.is_mostly_outside})
    notify(record.warning or "")
    return record


def sample_items(source: Source) -> Iterator[SourceItem]:
    """Yield the images of the sample; see the module.

    Raises:
        PseudorisError: SOURCE cannot be listed.
    """
    files = list(itertools.islice(source.files(), _NUM_LISTED))
    chosen: Sequence[tuple[StoredFile, Format]] = [
        files[place] for place in sorted(spread_evenly(range(len(files)), NUM_SAMPLED))
    ]
    if chosen:
        num_each = -(-NUM_SAMPLED // len(chosen))
        for file, format_ in chosen:
            yield from itertools.islice(source.items(file, format_), num_each)


def _sampled_bytes(source: Source, config: RunConfig, excluded: RecordedImageMatcher) -> Iterator[bytes]:
    for item in sample_items(source):
        for reading in read_or_refused(source.root, list(assign_shards([item], config.shards)), config):
            data = reading.outcome
            if isinstance(data, bytes) and excluded.rule_of(item.key, sha256_hex(data)) is None:
                yield data
