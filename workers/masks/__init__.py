"""The mask stage's engines: SAM, SAM 2, SAM 3's concepts, and masks that are ready on a disk.

`pyproject.toml` names the classes as entry points; `workers/stages.py` loads the one that `masks.engine` names. Only
then may its module be imported, because that loads torch. `training` builds `SamProposer` too.
"""

from typing import TYPE_CHECKING

from pseudoris.schemas import lazy_names

if TYPE_CHECKING:
    from pseudoris.workers.masks.generator import SamProposer
    from pseudoris.workers.masks.ready_masks import ReadyProposer
    from pseudoris.workers.masks.sam2_model import ConceptProposer, Sam2Proposer

__all__ = ["ConceptProposer", "ReadyProposer", "Sam2Proposer", "SamProposer"]
_MODULES = {
    "ConceptProposer": "sam2_model",
    "ReadyProposer": "ready_masks",
    "Sam2Proposer": "sam2_model",
    "SamProposer": "generator",
}
__getattr__ = lazy_names(__name__, _MODULES)
