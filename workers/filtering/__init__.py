"""Distinctiveness-based filtering: head nouns, CLIP scores, and which candidates are kept."""

from workers.filtering.scorer import ClipScorer

__all__ = ["ClipScorer"]
