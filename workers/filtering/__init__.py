"""The filter stage's engine: CLIP's scores with the choice of what to keep.

`pyproject.toml` names the class as an entry point; `workers/stages.py` loads the configured one. Only then may its
module be imported, because that loads torch.
"""

from typing import TYPE_CHECKING

from pseudoris.schemas import lazy_names

if TYPE_CHECKING:
    from pseudoris.workers.filtering.scorer import ClipScorer

__all__ = ["ClipScorer"]
__getattr__ = lazy_names(__name__, {"ClipScorer": "scorer"})
