"""The plain definition of captioning with a vision-language model, which the tree of prefixes must equal.

Every step runs the model's own forward over the whole sequence of each crop: no cache, no batch, no tree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.plain_captioner import ReferenceEngine


class PlainVlm(ReferenceEngine):
    """`inputs_of` returns the processor's output for a crop (3, S, S)."""

    def __init__(self, model: Any, inputs_of: Callable[[torch.Tensor], Any], special: Any, config: Any, *, seed: int):
        super().__init__(self._encode, special, config, seed=seed)
        self._vlm, self._inputs_of = model, inputs_of

    def _encode(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        self._inputs, self._known = [self._inputs_of(crop) for crop in pixels], {}
        return {"image_features": torch.ones(len(pixels), 1), "image_embs": torch.arange(len(pixels))}

    def logits(self, crops: torch.Tensor, prefixes: Sequence[Sequence[int]]) -> torch.Tensor:
        return torch.stack(
            [self._of(crop, tuple(prefix)) for crop, prefix in zip(crops.tolist(), prefixes, strict=True)]
        )

    def _of(self, crop: int, prefix: tuple[int, ...]) -> torch.Tensor:
        if (crop, prefix) not in self._known:
            base, longer = self._vlm.base_model, (0, len(prefix) - 1)
            if hasattr(base, "rope_deltas"):
                base.rope_deltas = None
            whole = dict(self._inputs[crop])
            # The root is the prompt's last token.
            whole["input_ids"] = torch.cat((whole["input_ids"], torch.tensor([prefix[1:]], dtype=torch.int64)), dim=1)
            whole["attention_mask"] = F.pad(whole["attention_mask"], longer, value=1)
            for name in {"token_type_ids", "mm_token_type_ids"} & whole.keys():
                whole[name] = F.pad(whole[name], longer)
            whole = {name: part.double() if part.is_floating_point() else part for name, part in whole.items()}
            self._known[crop, prefix] = self._vlm(**whole, use_cache=False).logits[0, -1]
        return self._known[crop, prefix]
