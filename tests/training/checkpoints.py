"""What a training left in its folder."""

from __future__ import annotations

from pathlib import Path

import torch

from pseudoris.training.learning.checkpoint_folder import load_checkpoint


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / "checkpoint.pt")["module"]


def assert_equal_weights(one: Path, other: Path) -> None:
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
