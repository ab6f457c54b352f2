"""Candidate captions of masks: CoCa's towers with caches, beam search and distinctive sampling."""

from typing import TYPE_CHECKING

from workers.deferred import deferred

if TYPE_CHECKING:
    from workers.captions.captioner import CocaCaptioner

__all__ = ["CocaCaptioner"]
__getattr__ = deferred(__name__, {"CocaCaptioner": "captioner"})
