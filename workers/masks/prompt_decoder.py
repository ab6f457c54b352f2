"""SAM's mask decoder over its own weights, without repeated or unused work. Called by `sam_model.py`.

It must equal `MaskDecoder.forward` with `multimask_output` up to rounding, and the order of its products decides the
bits of masks. It saves:

- The image tokens' projections in the first layer, and the positions' in the others: they are the same for every
  prompt, because no prompt changes the image before the first attention from image to tokens.
- Every later projection of the image tokens. A prompt has T = 7 tokens and the image L = 4,096, so the projection's
  weights are applied to the prompt's tokens: q · (W x + b) = (q W) · x + q · b, and, as attention sums to 1,
  Σ a (W x + b) = W (Σ a x) + b. With H heads and width C each of the two projections of an attention takes L·H·T·C
  products instead of L·C·C / 2 (SAM: 59 million instead of 134).
- Most of the final attention. After the last layer no token attends to another one: the IoU token is computed first,
  and mask tokens 1 to 3 only if a mask passes the filter. Mask token 0, SAM's single-mask output, and the prompt's own
  tokens are needed inside the layers only.
- Upscaling of masks that are not kept.

Attention has the layout (n, H·T, L), heads before tokens, so that the sum over heads and tokens is one matrix product.
Source: segment-anything 1.0, modeling/mask_decoder.py and modeling/transformer.py.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.modeling import MaskDecoder, Sam
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock, TwoWayTransformer
from torch import nn
from torch.nn import functional as F

from pseudoris.workers.device import to_device, to_host
from pseudoris.workers.pass_sizes import PROMPT_BYTES, UPSCALED_BYTES


class SamCrossAttention:
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
        # These are the weights by head, (H, d, C).
        self._q_by_head, self._k_by_head, self._v_by_head = (
            projection.weight.detach().view(self._heads, self._width, -1) for projection in (self._q, self._k, self._v)
        )
        self._out_by_head = self._out.weight.detach().t().reshape(self._heads, self._width, -1)

    def of_image(self, part: Literal["keys", "queries", "values"], image: torch.Tensor) -> torch.Tensor:
        """Return image tokens (L, C) as values, or with positions added as scaled keys or queries, (H, d, L)."""
        projected = {"keys": self._k, "queries": self._q, "values": self._v}[part](image)
        scaled: torch.Tensor = projected if part == "values" else projected * self._scale
        return scaled.t().reshape(self._heads, self._width, -1)

    def read_shared(self, placed: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Return the tokens' attention to one image for all prompts, given by its keys and values."""
        queries = self._heads_first(self._q(placed))
        if queries.is_cuda:
            keys, values = (each.transpose(1, 2).contiguous()[None] for each in (keys, values))
            taken = F.scaled_dot_product_attention(queries[None], keys, values, scale=1.0)[0]
        else:
            # A CPU keeps the order of these sums, which decides the bits of its masks.
            taken = torch.bmm(_softmax(torch.bmm(queries, keys), 2), values.transpose(1, 2))
        read: torch.Tensor = self._out(taken.transpose(0, 1).reshape(len(placed), -1, self._heads * self._width))
        return read

    def read(self, placed: torch.Tensor, image: torch.Tensor, position_keys: torch.Tensor) -> torch.Tensor:
        """Return the tokens' attention to images (n, L, C), one per prompt, whose positions have these keys."""
        scores = self._scores(self._q(placed), self._k_by_head, image, position_keys)
        mixed = torch.bmm(_softmax(scores, 2), image)
        mixed = mixed.view(len(image), self._heads, -1, image.shape[2]).transpose(0, 1).flatten(1, 2)
        taken = torch.bmm(mixed, self._v_by_head.transpose(1, 2)).transpose(0, 1)
        read: torch.Tensor = self._out(taken.reshape(len(placed), -1, self._heads * self._width) + self._v.bias)
        return read

    def write(
        self, image: torch.Tensor, tokens: torch.Tensor, placed: torch.Tensor, queries: torch.Tensor, *, is_shared: bool
    ) -> torch.Tensor:
        """Return images (n, L, C), one per prompt, plus what they take from the tokens; `image` is overwritten.

        `queries` are those of the positions; of an image that is the same for all prompts, its own.
        """
        scores = self._scores(self._k(placed), self._q_by_head, None if is_shared else image, queries)
        # For each head and pixel, attention sums to 1 over the tokens.
        attention = _softmax(scores.view(len(scores), self._heads, -1, scores.shape[2]), 2).flatten(1, 2)
        # Each token contributes this to a pixel, after the output projection. The projection's bias is split among the
        # heads, because in each head a pixel's attention sums to 1.
        outputs = torch.bmm(self._heads_first(self._v(tokens)), self._out_by_head) + self._out.bias / self._heads
        return image.baddbmm_(attention.transpose(1, 2), self._prompts_first(outputs, len(tokens)))

    def _scores(
        self, tokens: torch.Tensor, weight: torch.Tensor, image: torch.Tensor | None, position: torch.Tensor
    ) -> torch.Tensor:
        """Return tokens (n, T, H·d) times the projections of image, if any, and position, (n, H·T, L)."""
        by_head, num_prompts = self._heads_first(tokens), len(tokens)
        if by_head.is_cuda:
            # One product of all heads writes the scores in their order. It multiplies each by the others' zeros.
            cut = by_head.view(self._heads, num_prompts, -1, self._width).permute(1, 2, 3, 0)
            spread = torch.diag_embed(cut).permute(0, 3, 1, 4, 2).flatten(3).flatten(1, 2)
            scores = spread @ position.flatten(0, 1)
        else:
            scores = self._prompts_first(torch.bmm(by_head, position), num_prompts)
        if image is None:
            return scores
        absorbed = self._prompts_first(torch.bmm(by_head * self._scale, weight), num_prompts)
        return scores.baddbmm_(absorbed, image.transpose(1, 2))

    def _heads_first(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return tokens (n, T, H·d) as (H, n·T, d)."""
        return tokens.reshape(-1, self._heads, self._width).transpose(0, 1).contiguous()

    def _prompts_first(self, by_head: torch.Tensor, num_prompts: int) -> torch.Tensor:
        """Return (H, n·T, X) as (n, H·T, X)."""
        cut = by_head.view(self._heads, num_prompts, -1, by_head.shape[2])
        return cut.transpose(0, 1).flatten(1, 2)


def _softmax(scores: torch.Tensor, dim: int) -> torch.Tensor:
    """Return the softmax in the dtype of the scores, computed in at least float32."""
    if scores.is_cuda:
        # Its kernel computes so, and need not write it.
        return scores.softmax(dim)
    return scores.softmax(dim, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)


# An image token becomes this many pixels of a mask: each of two convolutions makes 2 × 2 pixels of one pixel.
_PIXELS_A_TOKEN = 16


class Upscaling:
    """`MaskDecoder.output_upscaling` and its product with the masks' weights, as matrix products.

    Both transposed convolutions have a stride equal to their kernel: each pixel becomes 2 × 2 pixels independently of
    its neighbours, so a few pixels can be computed at a time.
    """

    def __init__(self, decoder: MaskDecoder, dtype: torch.dtype | None) -> None:
        """Share the weights, which must not change afterwards; with a `dtype`, keep copies in it."""
        first, norm, self._activate, second, self._activate_again = decoder.output_upscaling
        self._norm_eps = norm.eps
        # As products, these convolutions have weights (4·out, in) and biases (4·out,), with channels innermost.
        weights = (each.weight.detach().permute(2, 3, 1, 0).flatten(0, 2).contiguous() for each in (first, second))
        biases = (each.bias.detach().repeat(4) for each in (first, second))
        # `to` shares the tensor if it has that dtype already.
        every = (each.to(dtype or each.dtype) for each in (*weights, *biases, norm.weight, norm.bias))
        self._first, self._second, self._first_bias, self._second_bias, self._norm_weight, self._norm_bias = every
        self.dtype = self._first.dtype

    def __call__(self, image: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return logits (n, M, 4h, 4w) from square images (n, h·w, C) and mask weights (n, M, C / 8)."""
        num_prompts, length, width = image.shape
        side = round(length**0.5)
        held = num_prompts * _PIXELS_A_TOKEN * (width // 8) * image.element_size()
        step = max(1, UPSCALED_BYTES[image.device.type] // held)
        columns = (weights if weights.dtype == self.dtype else weights.to(self.dtype)).transpose(1, 2)
        parts = []
        for part in torch.split(image, step, dim=1):
            pixels = F.linear(part, self._first, self._first_bias).reshape(-1, len(self._norm_weight))
            pixels = F.layer_norm(pixels, pixels.shape[1:], self._norm_weight, self._norm_bias, self._norm_eps)
            pixels = F.linear(self._activate(pixels), self._second, self._second_bias)
            # `features` are (n, 16·l, C / 8), with the 16 pixels of a token side by side.
            features = self._activate_again(pixels).view(num_prompts, part.shape[1] * _PIXELS_A_TOKEN, -1)
            parts.append(torch.bmm(features, columns))
        # After the prompts come row and column: of the token, of the first convolution's pixel, of the second's.
        logits = torch.cat(parts, dim=1).view(num_prompts, side, side, 2, 2, 2, 2, -1)
        return logits.permute(0, 7, 1, 3, 5, 2, 4, 6).reshape(num_prompts, -1, 4 * side, 4 * side)


# The IoU token comes before the mask tokens. Mask token 0 is for unambiguous prompts; a point uses 1 to 3.
_FIRST_MULTIMASK = 1
_FIRST_MASK_TOKEN = 1
_FOREGROUND = 1


@dataclass(frozen=True)
class SharedImage:
    """An encoded image before any prompt changes it: its tokens (L, C), and their projections (H, d, L).

    The first layer's attention from tokens to image takes keys and values, that from image to tokens the queries.
    """

    tokens: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    queries: torch.Tensor


@dataclass(frozen=True)
class Answers:
    """What n prompts on an image make of it, before a mask is upscaled.

    Attributes:
        tokens: (n, T, C) after the last layer.
        prompt: (n, T, C), their position.
        image: (n, L, C), the image's tokens after the last layer.
        predicted_iou: (n, 3).
    """

    tokens: torch.Tensor
    prompt: torch.Tensor
    image: torch.Tensor
    predicted_iou: torch.Tensor


class _Layer:
    """One layer of the transformer, with the projections of the positions (L, C)."""

    def __init__(self, block: TwoWayAttentionBlock, position: torch.Tensor) -> None:
        self.block = block
        self.read_image = SamCrossAttention(block.cross_attn_token_to_image)
        self.write_image = SamCrossAttention(block.cross_attn_image_to_token)
        self.position_keys = self.read_image.of_image("keys", position)
        self.position_queries = self.write_image.of_image("queries", position)

    def attend_to_tokens(self, tokens: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        """Return the tokens (n, T, C) after the self-attention; `prompt` is their position."""
        block = self.block
        if block.skip_first_layer_pe:
            mixed = block.self_attn(q=tokens, k=tokens, v=tokens)
        else:
            placed = tokens + prompt
            mixed = tokens + block.self_attn(q=placed, k=placed, v=tokens)
        normed: torch.Tensor = block.norm1(mixed)
        return normed

    def update_tokens(self, tokens: torch.Tensor, taken: torch.Tensor) -> torch.Tensor:
        """Return the tokens (n, T, C) after their attention to the image, `taken`, and their MLP."""
        tokens = self.block.norm2(tokens + taken)
        normed: torch.Tensor = self.block.norm3(tokens + self.block.mlp(tokens))
        return normed

    def update_image(
        self, image: torch.Tensor, tokens: torch.Tensor, prompt: torch.Tensor, shared: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return images (n, L, C) after their attention to the tokens; `image` is overwritten.

        `shared` are the queries of an image that is still the same for all prompts.
        """
        queries = self.position_queries if shared is None else shared
        taken = self.write_image.write(image, tokens, tokens + prompt, queries, is_shared=shared is not None)
        normed: torch.Tensor = self.block.norm4(taken)
        return normed

    def __call__(
        self, tokens: torch.Tensor, prompt: torch.Tensor, image: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the tokens (n, T, C) and images (n, L, C) after the whole layer; `image` is overwritten."""
        tokens = self.attend_to_tokens(tokens, prompt)
        tokens = self.update_tokens(tokens, self.read_image.read(tokens + prompt, image, self.position_keys))
        return tokens, self.update_image(image, tokens, prompt)


class SamPromptDecoder:
    """SAM's prompt encoder and mask decoder for single foreground points."""

    def __init__(self, sam: Sam, *, dtype: torch.dtype = torch.float32) -> None:
        """Share the weights of `sam`, which is in eval mode on its device; they must not change afterwards.

        The transformer computes in `dtype`, except for its softmax; prompts, heads and logits keep the model's dtype.
        """
        self._prompts = sam.prompt_encoder
        self._heads = sam.mask_decoder
        # On a GPU, where it moves most bytes, upscaling computes in `dtype` too.
        self._upscaling = Upscaling(sam.mask_decoder, dtype if sam.device.type == "cuda" else None)
        self._dtype = dtype
        transformer: TwoWayTransformer = sam.mask_decoder.transformer
        if dtype != torch.float32:
            transformer = copy.deepcopy(transformer).to(dtype)
        with torch.no_grad():
            self._position = sam.prompt_encoder.get_dense_pe()[0].flatten(1).t().to(dtype)
            self._layers = [_Layer(block, self._position) for block in transformer.layers]
            self._final = SamCrossAttention(transformer.final_attn_token_to_image)
            self._final_keys = self._final.of_image("keys", self._position)
        self._final_norm: nn.LayerNorm = transformer.norm_final_attn
        self._own = torch.cat([self._heads.iou_token.weight, self._heads.mask_tokens.weight]).detach()

    def share(self, embedding: torch.Tensor) -> SharedImage:
        """Return an image's encoding (C, h, w) float32 with the projections that all prompts share."""
        tokens = embedding.flatten(1).t() + self._prompts.no_mask_embed.weight
        tokens = tokens.to(self._dtype).contiguous()
        placed = tokens + self._position
        first = self._layers[0]
        return SharedImage(
            tokens=tokens,
            keys=first.read_image.of_image("keys", placed),
            values=first.read_image.of_image("values", tokens),
            queries=first.write_image.of_image("queries", placed),
        )

    def __call__(
        self, image: SharedImage, points_xy: torch.Tensor, *, min_predicted_iou: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return low-resolution logits (K, 4h, 4w) and predicted IoU (K,), float32, as `PromptableModel.decode`."""
        logits, kept_iou = [], []
        for answers in self.ask(image, points_xy):
            iou = answers.predicted_iou
            is_kept = iou > min_predicted_iou if min_predicted_iou > 0 else torch.ones_like(iou).bool()
            # The flags are copied to the host once, because each use of a bool index would copy them again.
            (kept,) = to_host(is_kept)
            logits.append(self.masks(answers, kept))
            rows = np.flatnonzero(kept)
            kept_iou.append(iou.flatten()[to_device(rows, iou.device)] if len(rows) else iou.new_zeros(0))
        return torch.cat(logits), torch.cat(kept_iou)

    def ask(self, image: SharedImage, points_xy: torch.Tensor) -> Iterator[Answers]:
        """Yield the answers to points (P, 2), in order, in as many passes as memory asks for."""
        prompt = self._prompt(points_xy)
        # A pass has as many prompts as fit in with their images, attentions and logits, but at least one.
        (length, width), num_heads = self._position.shape, len(self._final_keys)
        held = self._position.element_size() * length * (3 * width + 2 * num_heads * prompt.shape[1])
        step = max(1, PROMPT_BYTES[prompt.device.type] // held)
        # The first layer updates the tokens of all prompts at once, while the image is still the same for all prompts.
        first = self._layers[0]
        tokens = first.attend_to_tokens(prompt, prompt)
        taken = [
            first.read_image.read_shared(part, image.keys, image.values) for part in torch.split(tokens + prompt, step)
        ]
        tokens = first.update_tokens(tokens, torch.cat(taken))
        yield from map(partial(self._answers, image), torch.split(tokens, step), torch.split(prompt, step))

    def _prompt(self, points_xy: torch.Tensor) -> torch.Tensor:
        """Return the decoder's own tokens followed by the prompts', (P, T, C)."""
        # Points stay in float64 until SAM's positional encoding, which turns coordinates into phases of hundreds of
        # radians: bfloat16 would be too coarse.
        prompts = self._prompts
        # Without a box SAM appends a point that marks no place. SAM's own forward finds both kinds of point by indices
        # of bools, and the CPU waits for a GPU at each of them.
        points = torch.stack([points_xy + 0.5, torch.zeros_like(points_xy)], dim=1)
        place = prompts.pe_layer.forward_with_coords(points, prompts.input_image_size)
        point = place[:, :1] + prompts.point_embeddings[_FOREGROUND].weight
        own, none = (each.expand(len(point), -1, -1) for each in (self._own, prompts.not_a_point_embed.weight))
        return torch.cat([own, point, none], dim=1).to(self._dtype)

    def _answers(self, shared: SharedImage, tokens: torch.Tensor, prompt: torch.Tensor) -> Answers:
        first, *others = self._layers
        image = first.update_image(shared.tokens.repeat(len(tokens), 1, 1), tokens, prompt, shared.queries)
        for layer in others:
            tokens, image = layer(tokens, prompt, image)
        predicted_iou = self._heads.iou_prediction_head(self._finish(tokens, prompt, image, slice(0, 1))[:, 0])
        return Answers(tokens, prompt, image, predicted_iou[:, _FIRST_MULTIMASK:])

    def masks(self, answers: Answers, kept: NDArray[np.bool_]) -> torch.Tensor:
        """Return the low-resolution logits (K, 4h, 4w) of the masks that are `kept`, (n, 3) bool."""
        needed = np.flatnonzero(kept.any(axis=1))
        if not len(needed):
            return answers.predicted_iou.new_zeros((0, *self._prompts.mask_input_size), dtype=self._upscaling.dtype)
        image = answers.image
        rows, of_rows = (to_device(index, image.device) for index in (needed, np.flatnonzero(kept[needed])))
        asked = slice(_FIRST_MASK_TOKEN + _FIRST_MULTIMASK, len(self._own))
        image = image[rows]
        finished = self._finish(answers.tokens[rows], answers.prompt[rows], image, asked)
        heads = self._heads.output_hypernetworks_mlps[_FIRST_MULTIMASK:]
        # Each mask token has a head of its own, which makes the weights of the upscaled features.
        weights = torch.stack([head(finished[:, number]) for number, head in enumerate(heads)], dim=1)
        return self._upscaling(image.to(self._upscaling.dtype), weights).flatten(0, 1)[of_rows]

    def _finish(self, tokens: torch.Tensor, prompt: torch.Tensor, image: torch.Tensor, asked: slice) -> torch.Tensor:
        """Return the tokens `asked` for after the final attention, (n, A, C)."""
        tokens, prompt = tokens[:, asked], prompt[:, asked]
        finished: torch.Tensor = self._final_norm(tokens + self._final.read(tokens + prompt, image, self._final_keys))
        return finished.to(self._own.dtype)
