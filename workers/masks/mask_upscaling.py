"""The last part of SAM's mask decoder: from image tokens to the logits of masks. Called by `prompt_decoder.py`.

It must equal `output_upscaling` and its product with the masks' weights up to rounding. How many pixels are computed at
a time changes no bit.
"""

from __future__ import annotations

import torch
from segment_anything.modeling import MaskDecoder
from torch.nn import functional as F

from pseudoris.workers.pass_sizes import UPSCALED_BYTES

# Two convolutions, each of which makes 2 × 2 pixels of one.
_PIXELS_A_TOKEN = 16


class Upscaling:
    """`MaskDecoder.output_upscaling` and its product with the masks' weights, as matrix products.

    Both transposed convolutions have a stride equal to their kernel: each pixel becomes 2 × 2 pixels independently of
    its neighbours, so a few pixels can be computed at a time.
    """

    def __init__(self, decoder: MaskDecoder, *, dtype: torch.dtype | None = None) -> None:
        """Share the weights, which must not change afterwards; with a `dtype`, keep copies in it."""
        first, norm, self._activate, second, self._activate_again = decoder.output_upscaling
        self._norm_eps = norm.eps
        # Weight (4·out, in) and bias (4·out,) of a 2 × 2 transposed convolution of stride 2, with channels innermost.
        weights = (each.weight.detach().permute(2, 3, 1, 0).flatten(0, 2).contiguous() for each in (first, second))
        biases = (each.bias.detach().repeat(4) for each in (first, second))
        # `to` shares the tensor if nothing changes.
        every = (each.to(dtype or each.dtype) for each in (*weights, *biases, norm.weight, norm.bias))
        self._first, self._second, self._first_bias, self._second_bias, self._norm_weight, self._norm_bias = every

    def __call__(self, image: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return logits (n, M, 4h, 4w) from square images (n, h·w, C) and mask weights (n, M, C / 8)."""
        num_prompts, length, width = image.shape
        side = round(length**0.5)
        held = num_prompts * _PIXELS_A_TOKEN * (width // 8) * image.element_size()
        step = max(1, UPSCALED_BYTES[image.device.type] // held)
        columns = weights.transpose(1, 2)
        parts = []
        for part in torch.split(image, step, dim=1):
            pixels = F.linear(part, self._first, self._first_bias).reshape(-1, len(self._norm_weight))
            pixels = F.layer_norm(pixels, pixels.shape[1:], self._norm_weight, self._norm_bias, self._norm_eps)
            pixels = F.linear(self._activate(pixels), self._second, self._second_bias)
            # (n, 16·l, C / 8), with the 16 pixels of a token adjacent.
            features = self._activate_again(pixels).view(num_prompts, part.shape[1] * _PIXELS_A_TOKEN, -1)
            parts.append(torch.bmm(features, columns))
        # Row and column of the token, then of the first convolution's pixel, then of the second one's.
        logits = torch.cat(parts, dim=1).view(num_prompts, side, side, 2, 2, 2, 2, -1)
        return logits.permute(0, 7, 1, 3, 5, 2, 4, 6).reshape(num_prompts, -1, 4 * side, 4 * side)
