"""Runs as torch datasets: images, masks and expressions, out of the tables, in an order that a seed decides."""

from training.dataset.filters import ExpressionFilter
from training.dataset.iterable import RisIterableDataset, StreamOrder
from training.dataset.joined import JoinedDataset
from training.dataset.loading import ResumableLoader
from training.dataset.mapped import RisDataset
from training.dataset.mixed import MixedDataset, MixedIterableDataset
from training.dataset.samples import PARTS, RisSample, SampleSpec, collate_lists
from training.dataset.snapshot import Snapshot

__all__ = [
    "PARTS",
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
