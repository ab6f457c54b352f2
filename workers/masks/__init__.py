"""Mask proposal: SAM's automatic generator, the reduction of its masks to objects, instance priors, and RLE."""

from workers.masks.proposer import SamProposer

__all__ = ["SamProposer"]
