"""Distinctiveness-based filtering: head nouns, CLIP scores, and the choice of the candidates to keep."""

from typing import TYPE_CHECKING

from pseudoris.schemas import lazy_names

if TYPE_CHECKING:
    from pseudoris.workers.filtering.scorer import ClipScorer

__all__ = ["ClipScorer"]
__getattr__ = lazy_names(__name__, {"ClipScorer": "scorer"})
