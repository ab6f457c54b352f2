"""Mask proposal: SAM's automatic generator, ready masks, the reduction to objects, instance priors, and RLE."""

from typing import TYPE_CHECKING

from workers.deferred import deferred

if TYPE_CHECKING:
    from workers.masks.proposer import SamProposer
    from workers.masks.ready import ReadyProposer

__all__ = ["ReadyProposer", "SamProposer"]
__getattr__ = deferred(__name__, {"ReadyProposer": "ready", "SamProposer": "proposer"})
