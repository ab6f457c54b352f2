"""Runs as torch datasets: images, masks and expressions, out of the tables, in an order that a seed decides."""

from pseudoris.training.dataset.iterable_dataset import RisIterableDataset
from pseudoris.training.dataset.map_dataset import JoinedDataset, MapDataset, RisDataset
from pseudoris.training.dataset.mixed_dataset import MixedDataset, MixedIterableDataset
from pseudoris.training.dataset.samples import PARTS, Draw, ExpressionFilter, RisSample, SampleSpec, collate_lists
from pseudoris.training.dataset.snapshot import Snapshot
from pseudoris.training.dataset.stream_order import StreamOrder
from pseudoris.training.dataset.streamed_dataset import ResumableLoader

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
