"""The encoded bytes of a run's images, embedded or read again from SOURCE: those that were annotated and no others."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from schemas.errors import ImageError
from schemas.run import RunHeader
from store.annotations import AnnotatedImage
from store.location import RunLocation
from store.plan import read_shard_plan
from store.sources.opening import open_root
from store.sources.reading import Outcome, as_annotated, read_entries

logger = logging.getLogger(__name__)

UNREADABLE: Final = "images that are missing from SOURCE, or changed there"


def with_source_bytes(
    run: RunLocation,
    header: RunHeader,
    images: Sequence[AnnotatedImage],
    dropped: Counter[str],
    *,
    source: str | None = None,
) -> Iterator[AnnotatedImage]:
    """Yield a shard's images with their encoded bytes; one that is missing or changed is left out and counted.

    Left out, not refused: of millions of files some are always gone, and the rest of the run is as good as it was.
    What is not embedded is read as annotation reads it: neighbours in a tar together, objects of a bucket at once.

    Args:
        run: Where the run lives.
        header: Its header.
        images: Of one shard, in plan order; with `data` where the run embeds it.
        dropped: Gains the number of images left out.
        source: Where the images lie now; None is the header's SOURCE.

    Raises:
        ConfigError: SOURCE itself does not exist any more, or cannot be read.
        TransientError: Storage failed.
    """
    outcomes = _source_outcomes(run, header, [image for image in images if image.data is None], source)
    for image in images:
        data = as_annotated(next(outcomes) if image.data is None else image.data, image.sha256)
        if isinstance(data, ImageError):
            logger.warning("%s is left out: %s", image.key, data)
            dropped[UNREADABLE] += 1
            continue
        yield replace(image, data=data)


def _source_outcomes(
    run: RunLocation, header: RunHeader, images: Sequence[AnnotatedImage], source: str | None
) -> Iterator[Outcome]:
    """Yield the outcome of each image, in their order."""
    if not images:
        return
    wanted = {image.key for image in images}
    entries = [entry for entry in read_shard_plan(run, header, images[0].shard) if entry.key in wanted]
    if source is not None:
        # A copy has other times and etags; its sha256 tells whether it is the image.
        entries = [replace(entry, etag=None, mtime_ns=None) for entry in entries]
    root = open_root(source or header.source, header.config.source, header.config.placement.storage)
    for _, outcome in read_entries(root, entries, header.config):
        yield outcome
