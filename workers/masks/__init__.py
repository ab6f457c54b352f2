"""Mask proposal: SAM's automatic generator, ready masks, the reduction to objects, instance priors, and RLE."""

from workers.masks.proposer import SamProposer
from workers.masks.ready import ReadyProposer

__all__ = ["ReadyProposer", "SamProposer"]
