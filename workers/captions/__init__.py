"""Candidate captions of masks: CoCa's towers with caches, beam search and distinctive sampling."""

from workers.captions.captioner import CocaCaptioner

__all__ = ["CocaCaptioner"]
