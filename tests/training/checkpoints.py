"""What a training left in its folder, and what ends it."""

from __future__ import annotations

from pathlib import Path

import torch

from pseudoris.training.learning.checkpoint_folder import load_checkpoint


class KilledError(Exception):
    """What ends a training in its middle."""


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / "checkpoint.pt")["module"]


def assert_equal_weights(one: Path, other: Path) -> None:
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
