"""Runs as torch datasets: images, masks and expressions out of the tables. Called by users, `training`, experiments.

The order of samples and every draw follow from the seed, the epoch, the ranks and workers, and the snapshot alone.
The names are public (docs/reference/api.md): users depend on them, their arguments and fields.
"""

from pseudoris.interchange.dataset.iterable_dataset import RisIterableDataset
from pseudoris.interchange.dataset.map_dataset import JoinedDataset, MapDataset, RisDataset
from pseudoris.interchange.dataset.mixed_dataset import MixedDataset, MixedIterableDataset
from pseudoris.interchange.dataset.sample_spec import (
    PARTS,
    Draw,
    ExpressionFilter,
    RisSample,
    SampleSpec,
    collate_lists,
)
from pseudoris.interchange.dataset.snapshot import Snapshot
from pseudoris.interchange.dataset.stream_order import StreamOrder
from pseudoris.interchange.dataset.streamed_dataset import ResumableLoader

__all__ = [
    "PARTS",
    "Draw",
    "ExpressionFilter",
    "JoinedDataset",
    "MapDataset",
    "MixedDataset",
    "MixedIterableDataset",
    "ResumableLoader",
    "RisDataset",
    "RisIterableDataset",
    "RisSample",
    "SampleSpec",
    "Snapshot",
    "StreamOrder",
    "collate_lists",
]
