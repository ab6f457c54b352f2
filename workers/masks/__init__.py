"""Mask proposal: automatic generators, concepts, ready masks, reduction to objects, instance priors, and RLE."""

from typing import TYPE_CHECKING

from pseudoris.schemas import lazy_names

if TYPE_CHECKING:
    from pseudoris.workers.masks.generator import SamProposer
    from pseudoris.workers.masks.ready_masks import ReadyProposer
    from pseudoris.workers.masks.sam2_model import Sam2Proposer

__all__ = ["ReadyProposer", "Sam2Proposer", "SamProposer"]
__getattr__ = lazy_names(
    __name__, {"ReadyProposer": "ready_masks", "Sam2Proposer": "sam2_model", "SamProposer": "generator"}
)
