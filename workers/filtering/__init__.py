"""The filter stage's engines: CLIP's scores with the choice of what to keep, and second opinions of another model.

`pyproject.toml` names the classes as entry points; `workers/stages.py` loads the configured ones. Only then may their
modules be imported, because that loads torch.
"""

from typing import TYPE_CHECKING

from pseudoris.schemas import lazy_names

if TYPE_CHECKING:
    from pseudoris.workers.filtering.clip_check import ClipCheck
    from pseudoris.workers.filtering.scorer import ClipScorer
    from pseudoris.workers.filtering.vlm_check import VlmCheck

__all__ = ["ClipCheck", "ClipScorer", "VlmCheck"]
__getattr__ = lazy_names(__name__, {"ClipCheck": "clip_check", "ClipScorer": "scorer", "VlmCheck": "vlm_check"})
