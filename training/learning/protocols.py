"""What the trainer needs from a method and from its data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from torch import nn


class Learner(Protocol):
    """A method that learns: a module, its losses, and its validation."""

    @property
    def module(self) -> nn.Module:
        """What is trained. Parameters that need no gradient are neither optimised nor saved."""
        ...

    def losses(self, module: nn.Module, batch: Any) -> Mapping[str, torch.Tensor]:
        """Return `loss`, which is minimised, and other scalars, which are logged.

        Args:
            module: Call this one, not your own: it may be wrapped, for DDP and precision. Its input must not be a
                frozen dataclass, because Fabric replaces the tensors in it.
            batch: A batch of the feed, on the CPU. `loss` is a mean over its items, of which it has `len(batch)`.
        """
        ...

    def validate(self, module: nn.Module, fabric: Fabric) -> Mapping[str, float]:
        """Return figures of held-out data; called on every rank, in eval mode, without gradients."""
        ...


class Feed(Protocol):
    """Batches by number: batch n is always the same, after a resume too."""

    def batches(self, first: int) -> Iterator[Any]:
        """Yield batch `first`, `first` + 1, … of this rank, without end."""
        ...
