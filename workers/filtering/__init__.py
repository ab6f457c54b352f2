"""The filter stage's engines: CLIP's scores with the choice of what to keep, and second opinions of another model.

`pyproject.toml` names the classes as entry points; `workers/stages.py` loads the configured ones. Only then may their
modules be imported, because that loads torch.
"""

from typing import TYPE_CHECKING

from pseudoris.schemas import lazy_names

if TYPE_CHECKING:
    from pseudoris.workers.filtering.grounding_checks import ClipCheck, VlmCheck
    from pseudoris.workers.filtering.scorer import ClipScorer

__all__ = ["ClipCheck", "ClipScorer", "VlmCheck"]
__getattr__ = lazy_names(
    __name__, {"ClipCheck": "grounding_checks", "ClipScorer": "scorer", "VlmCheck": "grounding_checks"}
)
