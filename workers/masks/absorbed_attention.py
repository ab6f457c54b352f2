"""Cross attention between a prompt's few tokens and the image's many, without projecting the image tokens.

SAM's decoder projects the image tokens again for every prompt, because every prompt changes them. A prompt has T = 7
tokens and the image L = 4,096, so it is cheaper to apply the projection's weights to the prompt's tokens: q · (W x + b)
= (q W) · x + q · b, and, as attention sums to 1, Σ a (W x + b) = W (Σ a x) + b. With H heads and width C each of the
two projections of an attention takes L·H·T·C products instead of L·C·C / 2 (SAM: 59 million instead of 134). Positions
are the same for every prompt and are projected once.

Attention has the layout (n, H·T, L), heads before tokens, so that the sum over heads and tokens is one matrix product.
"""

from __future__ import annotations

import math

import torch
from segment_anything.modeling.transformer import Attention
from torch import nn


class CrossAttention:
    """One of SAM's cross attentions over its own weights, split by head.

    Tokens (n, T, C) are those of n prompts. An argument named `placed` has the positions added.
    """

    def __init__(self, module: Attention) -> None:
        """Keep the module; its weights must not change afterwards."""
        self._heads: int = module.num_heads
        self._width: int = module.internal_dim // module.num_heads
        self._scale = 1 / math.sqrt(self._width)
        self._q: nn.Linear = module.q_proj
        self._k: nn.Linear = module.k_proj
        self._v: nn.Linear = module.v_proj
        self._out: nn.Linear = module.out_proj
        self._q_by_head, self._k_by_head, self._v_by_head = map(self._cut, (self._q, self._k, self._v))
        # (H, d, C)
        self._out_by_head = self._out.weight.detach().t().reshape(self._heads, self._width, -1)

    def _cut(self, projection: nn.Linear) -> torch.Tensor:
        """Return a projection's weights by head, (H, d, C)."""
        return projection.weight.detach().view(self._heads, self._width, -1)

    def image_keys(self, placed: torch.Tensor) -> torch.Tensor:
        """Return image tokens (L, C), with positions added, as scaled keys (H, d, L)."""
        return self._by_head(self._k(placed) * self._scale)

    def image_queries(self, placed: torch.Tensor) -> torch.Tensor:
        """Return image tokens (L, C), with positions added, as scaled queries (H, d, L)."""
        return self._by_head(self._q(placed) * self._scale)

    def image_values(self, image: torch.Tensor) -> torch.Tensor:
        """Return image tokens (L, C) as values (H, d, L)."""
        return self._by_head(self._v(image))

    def _by_head(self, image: torch.Tensor) -> torch.Tensor:
        return image.t().reshape(self._heads, self._width, -1)

    def read_shared(self, placed: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Return the tokens' attention to one image for all prompts, given by its `image_keys` and `image_values`."""
        scores = torch.bmm(self._heads_first(self._q(placed)), keys)
        taken = torch.bmm(_softmax(scores, 2), values.transpose(1, 2))
        read: torch.Tensor = self._out(self._joined(taken, len(placed)))
        return read

    def read(self, placed: torch.Tensor, image: torch.Tensor, position_keys: torch.Tensor) -> torch.Tensor:
        """Return the tokens' attention to images (n, L, C), one per prompt, whose positions have these `image_keys`."""
        scores = self._scores(self._heads_first(self._q(placed)), self._k_by_head, image, position_keys)
        mixed = torch.bmm(_softmax(scores, 2), image)
        mixed = mixed.view(len(image), self._heads, -1, image.shape[2]).transpose(0, 1).flatten(1, 2)
        taken = self._joined(torch.bmm(mixed, self._v_by_head.transpose(1, 2)), len(placed))
        read: torch.Tensor = self._out(taken + self._v.bias)
        return read

    def attention_of_shared(self, placed: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        """Return the weights (n, H·T, L) with which one image, given by its `image_queries`, attends to the tokens."""
        scores = torch.bmm(self._heads_first(self._k(placed)), queries)
        return self._over_tokens(self._prompts_first(scores, len(placed)))

    def attention_of(self, placed: torch.Tensor, image: torch.Tensor, position_queries: torch.Tensor) -> torch.Tensor:
        """Return the weights (n, H·T, L) with which images (n, L, C) attend to the tokens."""
        offered = self._heads_first(self._k(placed))
        return self._over_tokens(self._scores(offered, self._q_by_head, image, position_queries))

    def token_outputs(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return what each token contributes to pixels that attend to it, (n, H·T, C), after the output projection.

        The projection's bias is split among the heads, because in each head a pixel's attention sums to 1.
        """
        values = self._heads_first(self._v(tokens))
        outputs = torch.bmm(values, self._out_by_head) + self._out.bias / self._heads
        return self._prompts_first(outputs, len(tokens))

    def _scores(
        self, by_head: torch.Tensor, weight: torch.Tensor, image: torch.Tensor, position: torch.Tensor
    ) -> torch.Tensor:
        """Return tokens (H, n·T, d) times the projections of image and position, (n, H·T, L)."""
        absorbed = self._prompts_first(torch.bmm(by_head * self._scale, weight), len(image))
        scores = self._prompts_first(torch.bmm(by_head, position), len(image))
        return scores.baddbmm_(absorbed, image.transpose(1, 2))

    def _over_tokens(self, scores: torch.Tensor) -> torch.Tensor:
        """Return scores (n, H·T, L) as attention that sums to 1 over the tokens of each head and pixel."""
        by_head = scores.view(len(scores), self._heads, -1, scores.shape[2])
        return _softmax(by_head, 2).flatten(1, 2)

    def _heads_first(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return tokens (n, T, H·d) as (H, n·T, d)."""
        return tokens.reshape(-1, self._heads, self._width).transpose(0, 1).contiguous()

    def _joined(self, by_head: torch.Tensor, num_prompts: int) -> torch.Tensor:
        """Return (H, n·T, d) as (n, T, H·d)."""
        return by_head.transpose(0, 1).reshape(num_prompts, -1, self._heads * self._width)

    def _prompts_first(self, by_head: torch.Tensor, num_prompts: int) -> torch.Tensor:
        """Return (H, n·T, X) as (n, H·T, X)."""
        cut = by_head.view(self._heads, num_prompts, -1, by_head.shape[2])
        return cut.transpose(0, 1).flatten(1, 2)


def _softmax(scores: torch.Tensor, dim: int) -> torch.Tensor:
    """Return the softmax in the dtype of the scores, computed in at least float32."""
    return scores.softmax(dim, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)
