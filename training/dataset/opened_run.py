"""A run opened for training: its location, header, snapshot, and the reader of its shards."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.exclusion_records import exclusions_of
from pseudoris.schemas.run_records import RunHeader
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import require_header
from pseudoris.store.sources.exclusions import RecordedImageMatcher
from pseudoris.training.dataset.image_reader import ImageBytes
from pseudoris.training.dataset.samples import SampleSpec
from pseudoris.training.dataset.shard_reader import Int64Array, ShardReader
from pseudoris.training.dataset.snapshot import Snapshot

# Counting reads a few columns of each shard: on a bucket that is latency, which threads hide.
_COUNTERS: Final = 8


@dataclass(frozen=True, slots=True)
class OpenedRun:
    """What every dataset of a run is built on. It can be pickled and sent to loader workers.

    Attributes:
        location: Where the run lives.
        header: The header when the run was opened, extensions of its plan included.
        snapshot: Which commits are read.
        spec: What of them.
        images: How its images are read; None if no image is requested.
        reader: Reads its shards.
    """

    location: RunLocation
    header: RunHeader
    snapshot: Snapshot
    spec: SampleSpec
    images: ImageBytes | None
    reader: ShardReader

    @classmethod
    def open(
        cls,
        run: str | RunLocation,
        spec: SampleSpec,
        snapshot: Snapshot | None = None,
        *,
        endpoint_url: str | None = None,
        is_random_access: bool = False,
    ) -> Self:
        """Open a run.

        Args:
            run: A folder or url, or a location.
            spec: What of it.
            snapshot: Which commits; `Snapshot.shared` by default.
            endpoint_url: Address of an S3 store other than AWS, for the run and its images; None reads
                AWS_ENDPOINT_URL.
            is_random_access: See `ImageBytes`.

        Raises:
            ConfigError: There is no run, nothing of it is committed yet, or `spec.exclude` needs the images' pixels.
            TransientError: Storage failed.
        """
        location = run if isinstance(run, RunLocation) else RunLocation.open(run, endpoint_url)
        header = require_header(location)
        chosen = Snapshot.shared(location) if snapshot is None else snapshot
        images = None
        if "image" in spec.parts:
            images = ImageBytes(
                location, header, source=spec.source, endpoint_url=endpoint_url, is_random_access=is_random_access
            )
        excluded = _excluded(header, spec)
        reader = ShardReader(location, chosen, spec, images, excluded=excluded)
        return cls(location, header, chosen, spec, images, reader)

    def nothing_passes(self) -> ConfigError:
        """Return the error for a snapshot of which the filter keeps nothing."""
        return ConfigError(
            f"No expression of the run at {self.location.root} passes the filter {self.spec.where.as_json()}. Loosen "
            "it, or wait until more shards are committed."
        )

    def count_samples(self) -> Int64Array:
        """Return the samples of every shard of the snapshot, (S,); reads the columns that the filter asks for.

        Raises:
            ConfigError: A part is missing.
            TransientError: Storage failed.
        """
        with ThreadPoolExecutor(_COUNTERS) as pool:
            counts = pool.map(lambda row: self.reader.index(row, with_sizes=False).num_masks, range(len(self.snapshot)))
            return np.fromiter(counts, np.int64, len(self.snapshot))


def _excluded(header: RunHeader, spec: SampleSpec) -> RecordedImageMatcher | None:
    """The matcher of the rules that the run was not planned with; None without one."""
    record = exclusions_of(header)
    left = spec.exclusions.without(record.rules if record else ())
    for rule in left.rules:
        if rule.kind == "phash":
            raise ConfigError(
                f"exclude: {rule.name} has perceptual hashes, but a dataset compares names and sha256 alone. Use "
                "`pseudoris export --exclude` or `pseudoris annotate --exclude`, or give a table with sha256 alone."
            )
    return RecordedImageMatcher(left) if left else None
