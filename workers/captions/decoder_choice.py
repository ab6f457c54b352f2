"""Says which decoder captions the images of a run: what `captions.decoder` names, or for `auto` the prefix tree.

Fixed shapes are for a GPU, and no card is proven for them yet. Called where a run's identity is measured
(`workers/stages.py`), by `captioner`, and by `doctor`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pseudoris.schemas.config import CaptionsConfig, ComputeConfig
from pseudoris.workers.captions.row_kernels import PLAIN, triton_version

_UNPROVEN = "fixed shapes are off: nothing has proven them on this card (a new run can take captions.decoder=static)"


@dataclass(frozen=True, slots=True)
class DecoderChoice:
    """A decoder, and why `auto` takes the slower one; one sentence, empty where nothing is to say."""

    name: Literal["static", "tree"]
    why: str = ""

    @property
    def is_static(self) -> bool:
        """Whether it decodes in fixed shapes."""
        return self.name == "static"


def chosen_decoder(captions: CaptionsConfig, compute: ComputeConfig) -> DecoderChoice:
    """Return the decoder that `captions.decoder` names, or for `auto` the one of this process's device."""
    if captions.decoder != "auto":
        return DecoderChoice(captions.decoder)
    if compute.device != "cuda":
        return DecoderChoice("tree")
    version, why = triton_version()
    if version == PLAIN:
        return DecoderChoice("tree", f"fixed shapes are off: Triton cannot compile for this card ({why})")
    return DecoderChoice("tree", _UNPROVEN)
