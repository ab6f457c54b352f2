"""CoCa's layers as one position of many prefixes goes through them. For `cached_towers` and `static_towers`.

`nn.MultiheadAttention` cannot take past keys and values. So these blocks share the model's weights and compute all but
the attention, which the towers compute over their caches. A block must equal open_clip's own up to rounding.
"""

from __future__ import annotations

from typing import cast

import torch
from open_clip.coca_model import CoCa
from open_clip.transformer import ResidualAttentionBlock, TextTransformer

from pseudoris.primitives.errors import ConfigError
from pseudoris.workers.forward_passes import Block, SelfAttentionBlock, linear


class CrossAttention(Block):
    """A block that attends to image tokens, the same for all rows of a crop."""

    def __init__(self, block: ResidualAttentionBlock) -> None:
        super().__init__(block)
        weight, bias, width = block.attn.in_proj_weight, block.attn.in_proj_bias, block.attn.embed_dim
        self.ln_1_kv = block.ln_1_kv
        # `queries` maps the block's input after `ln_1`, (P, D), to queries (P, D).
        self.queries = linear(weight[:width], None if bias is None else bias[:width])
        self._keys_values = linear(weight[width:], None if bias is None else bias[width:])

    def keys_values(self, image_tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values (C, heads, T, head width) of image tokens (C, T, D)."""
        both = self._keys_values(self.ln_1_kv(image_tokens))
        keys, values = both.view(*both.shape[:2], 2, self.num_heads, -1).permute(2, 0, 3, 1, 4).contiguous()
        return keys, values


class CocaBlocks:
    """The blocks of a CoCa, in the order in which a position goes through them."""

    def __init__(self, model: CoCa) -> None:
        """Share the weights of `model`, in eval mode on its device."""
        self.text = text = _checked_text(model.text)
        decoder = model.text_decoder
        self.text_layers = [SelfAttentionBlock(block) for block in text.transformer.resblocks]
        self.layers = [SelfAttentionBlock(block) for block in decoder.resblocks]
        # Block n of `cross` follows block n of `layers`.
        self.cross = [CrossAttention(block) for block in decoder.cross_attn]
        self.ln_final = decoder.ln_final
        self.width = int(decoder.resblocks[0].attn.embed_dim)
        # New tensors are made like this weight: all weights have its dtype and its device.
        self.like = cast(torch.Tensor, text.token_embedding.weight)


def _checked_text(text: torch.nn.Module) -> TextTransformer:
    if not isinstance(text, TextTransformer):
        wrong = (
            f"is a {type(text).__name__}; cached decoding knows open_clip's TextTransformer: "
            "choose a CoCa architecture without hf_model_name"
        )
    elif text.attn_mask is None:
        wrong = "has no_causal_mask=true and cannot decode: choose a causal one"
    elif text.cls_emb is None:
        wrong = (
            "has embed_cls=false, which open_clip 3.3 cannot run on a prefix: choose a CoCa architecture with "
            "embed_cls=true"
        )
    elif not all(isinstance(block, ResidualAttentionBlock) for block in text.transformer.resblocks):
        wrong = (
            "has custom attention blocks (qk_norm, scale_heads, ...); cached decoding knows open_clip's default block: "
            "choose an architecture without them"
        )
    else:
        return text
    raise ConfigError(f"captions: the text tower {wrong}")
