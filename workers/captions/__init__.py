"""Candidate captions of masks: CoCa's towers with caches, beam search and distinctive sampling."""

from typing import TYPE_CHECKING

from pseudoris.schemas import lazy_names

if TYPE_CHECKING:
    from pseudoris.workers.captions.captioner import CocaCaptioner
    from pseudoris.workers.captions.vlm_captioner import VlmCaptioner

__all__ = ["CocaCaptioner", "VlmCaptioner"]
__getattr__ = lazy_names(__name__, {"CocaCaptioner": "captioner", "VlmCaptioner": "vlm_captioner"})
