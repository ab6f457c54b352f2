"""The caption stage: candidate captions of masks by CoCa or a user's vision-language model.

`pyproject.toml` names the classes as entry points; `workers/stages.py` loads the configured one. Only then may its
module be imported, because that loads torch.
"""

from typing import TYPE_CHECKING

from pseudoris.schemas import lazy_names

if TYPE_CHECKING:
    from pseudoris.workers.captions.captioner import CocaCaptioner
    from pseudoris.workers.captions.vlm_captioner import VlmCaptioner

__all__ = ["CocaCaptioner", "VlmCaptioner"]
__getattr__ = lazy_names(__name__, {"CocaCaptioner": "captioner", "VlmCaptioner": "vlm_captioner"})
