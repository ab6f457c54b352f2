"""From a prompt's image features to mask logits at four times their resolution, channels last."""

from __future__ import annotations

import torch
from segment_anything.modeling import MaskDecoder
from torch.nn import functional as F

# What the upscaled features of one step may take: on a CPU about a core's own cache.
# Estimated from the shapes, not tuned by measurement.
_STEP_BYTES = {"cpu": 2 * 2**20, "cuda": 2**30}
# Two convolutions, each of which makes 2 × 2 pixels of one.
_PIXELS_A_TOKEN = 16


class Upscaling:
    """`MaskDecoder.output_upscaling` and the product with the masks' weights, as matrix products.

    Both transposed convolutions have a stride equal to their kernel: each pixel becomes 2 × 2 pixels of its own, so
    that nothing depends on neighbours and pixels can be taken a few at a time.
    """

    def __init__(self, decoder: MaskDecoder) -> None:
        """Take over the weights, which must not change afterwards."""
        first, norm, self._activate, second, self._activate_again = decoder.output_upscaling
        self._norm_weight, self._norm_bias, self._norm_eps = norm.weight, norm.bias, norm.eps
        self._first, self._first_bias = _as_linear(first.weight, first.bias)
        self._second, self._second_bias = _as_linear(second.weight, second.bias)

    def __call__(self, image: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return logits (n, M, 4h, 4w) of images (n, h·w, C), squares, and mask weights (n, M, C / 8)."""
        num_prompts, length, width = image.shape
        side = round(length**0.5)
        held = num_prompts * _PIXELS_A_TOKEN * (width // 8) * image.element_size()
        step = max(1, _STEP_BYTES[image.device.type] // held)
        columns = weights.transpose(1, 2)
        parts = [torch.bmm(self._features(part), columns) for part in torch.split(image, step, dim=1)]
        # Row and column of the token, then those within it of the first convolution and of the second.
        logits = torch.cat(parts, dim=1).view(num_prompts, side, side, 2, 2, 2, 2, -1)
        return logits.permute(0, 7, 1, 3, 5, 2, 4, 6).reshape(num_prompts, -1, 4 * side, 4 * side)

    def _features(self, image: torch.Tensor) -> torch.Tensor:
        """Return upscaled features (n, 16·l, C / 8) of pixels (n, l, C), the 16 of each pixel together."""
        pixels = F.linear(image, self._first, self._first_bias).reshape(-1, len(self._norm_weight))
        pixels = F.layer_norm(pixels, pixels.shape[1:], self._norm_weight, self._norm_bias, self._norm_eps)
        pixels = F.linear(self._activate(pixels), self._second, self._second_bias)
        features: torch.Tensor = self._activate_again(pixels)
        return features.view(len(image), image.shape[1] * _PIXELS_A_TOKEN, -1)


def _as_linear(weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a 2 × 2 transposed convolution of stride 2 as weight (4·out, in) and bias (4·out,), channels innermost."""
    return weight.detach().permute(2, 3, 1, 0).flatten(0, 2).contiguous(), bias.detach().repeat(4)
