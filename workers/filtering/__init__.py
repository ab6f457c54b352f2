"""Distinctiveness-based filtering: head nouns, CLIP scores, and which candidates are kept."""

from typing import TYPE_CHECKING

from workers.deferred import deferred

if TYPE_CHECKING:
    from workers.filtering.scorer import ClipScorer

__all__ = ["ClipScorer"]
__getattr__ = deferred(__name__, {"ClipScorer": "scorer"})
