"""Mask proposal: SAM's automatic generator, ready masks, reduction to objects, instance priors, and RLE."""

from typing import TYPE_CHECKING

from pseudoris.schemas import lazy_names

if TYPE_CHECKING:
    from pseudoris.workers.masks.generator import SamProposer
    from pseudoris.workers.masks.ready_masks import ReadyProposer

__all__ = ["ReadyProposer", "SamProposer"]
__getattr__ = lazy_names(__name__, {"ReadyProposer": "ready_masks", "SamProposer": "generator"})
