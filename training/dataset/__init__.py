"""Runs as torch datasets: images, masks and expressions, out of the tables, in an order that a seed decides."""

from pseudoris.training.dataset.expression_filter import ExpressionFilter
from pseudoris.training.dataset.iterable_dataset import RisIterableDataset, StreamOrder
from pseudoris.training.dataset.joined_dataset import JoinedDataset
from pseudoris.training.dataset.map_dataset import RisDataset
from pseudoris.training.dataset.mixed_dataset import MixedDataset, MixedIterableDataset
from pseudoris.training.dataset.resumable_loader import ResumableLoader
from pseudoris.training.dataset.samples import PARTS, Draw, RisSample, SampleSpec, collate_lists
from pseudoris.training.dataset.snapshot import Snapshot

__all__ = [
    "PARTS",
    "Draw",
    "ExpressionFilter",
    "JoinedDataset",
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
