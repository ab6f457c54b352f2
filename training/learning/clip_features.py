"""Dense features of a CLIP: block outputs, patches in the joint space, words, CLIP Surgery.

Called by `training` and experiments. Plain functions over open_clip's own modules for any CLIP whose image tower is a
ViT without an attention pooler. Embeddings are open_clip's own; gradients flow through.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transformer import TextTransformer, VisionTransformer

from pseudoris.primitives.errors import ConfigError

Clip: TypeAlias = CLIP | CustomTextCLIP


@dataclass(frozen=True)
class ImageFeatures:
    """The features of B images on the image tower's grid of h × w patches; not normalised.

    `stages` has the output (B, C, h, w) of each requested block, `dense` (B, D, h, w) each patch projected into the
    joint space as if it were the pooled token, `embedding` (B, D) is open_clip's `encode_image`.
    """

    stages: tuple[torch.Tensor, ...]
    dense: torch.Tensor
    embedding: torch.Tensor


@dataclass(frozen=True)
class TextFeatures:
    """The features of T texts of L tokens: words (T, L, C), the last layer after `ln_final`, before pooling.

    `is_word` (T, L) bool is true from the start token to the end token, `embedding` (T, D) is open_clip's
    `encode_text`, not normalised.
    """

    words: torch.Tensor
    is_word: torch.Tensor
    embedding: torch.Tensor


def vision_tower(model: Clip) -> VisionTransformer:
    """Return the image tower after a check that its patches can be read one by one."""
    visual = model.visual
    if not isinstance(visual, VisionTransformer) or visual.attn_pool is not None or visual.proj is None:
        kind = "a ViT with an attention pooler" if isinstance(visual, VisionTransformer) else type(visual).__name__
        raise ConfigError(
            f"the image tower is {kind}, but only a plain ViT has patches in the joint space: "
            "choose an architecture such as ViT-B-16, or builtin:tiny/scene_clip.json"
        )
    return visual


def image_blocks(visual: VisionTransformer, layers: Sequence[int], *, setting: str = "layers") -> list[int]:
    """Return the numbers, from 0, of some of an image tower's blocks; negative `layers` count from the last."""
    last = len(visual.transformer.resblocks) - 1
    wanted = [layer + last + 1 if layer < 0 else layer for layer in layers]
    if not all(0 <= layer <= last for layer in wanted):
        raise ConfigError(f"{setting}={list(layers)}: the image tower has blocks 0 to {last}; choose among them")
    return wanted


def read_images(model: Clip, images: torch.Tensor, *, layers: Sequence[int] = ()) -> ImageFeatures:
    """Return the features of images (B, 3, S, S), normalised as the weights expect; `layers` as of `image_blocks`."""
    visual = vision_tower(model)
    last, wanted = len(visual.transformer.resblocks) - 1, image_blocks(visual, layers)
    taken = sorted({*wanted, last})
    out = visual.forward_intermediates(images, indices=taken)
    maps: dict[int, torch.Tensor] = dict(zip(taken, out["image_intermediates"], strict=True))
    dense = visual.ln_post(maps[last].permute(0, 2, 3, 1)) @ visual.proj
    return ImageFeatures(tuple(maps[layer] for layer in wanted), dense.permute(0, 3, 1, 2), out["image_features"])


def read_texts(model: Clip, tokens: torch.Tensor) -> TextFeatures:
    """Return the features of texts (T, L) int64 from `ClipTokenizer`; L is the context's length."""
    tower = model.text if isinstance(model, CustomTextCLIP) else model
    if not isinstance(tower, CLIP | TextTransformer) or getattr(tower, "cls_emb", None) is not None:
        raise ConfigError(
            f"the text tower is {type(tower).__name__}, but only open_clip's own without a class token is "
            "supported: choose an architecture such as ViT-B-16, or builtin:tiny/scene_clip.json"
        )
    if isinstance(tower, CLIP):
        out = tower.forward_intermediates(text=tokens, text_indices=1, normalize=False, normalize_intermediates=True)
    else:
        out = tower.forward_intermediates(tokens, indices=1, normalize_intermediates=True, output_fmt="NLC")
    # The end token has the highest number. open_clip finds it in the same way.
    ends = tokens.argmax(dim=1, keepdim=True)
    is_word = torch.arange(tokens.shape[1], device=tokens.device) <= ends
    return TextFeatures(out["text_intermediates"][-1], is_word, out["text_features"])


def response_map(
    dense: torch.Tensor, embedding: torch.Tensor, *, redundant: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the response (B, h, w) of each patch of `dense` (B, D, h, w) to a text: their cosine in the joint space.

    `embedding` is (B, D), one text per image, or (1, D), one for all. The response to `redundant` (1, D), the empty
    prompt, is subtracted. Source: CLIP Surgery (Li et al. 2023, arXiv 2304.05653), section 3.3, for one text.
    """
    text = F.normalize(embedding, dim=-1)
    if redundant is not None:
        text = text - F.normalize(redundant, dim=-1)
    return torch.einsum("bdhw,bd->bhw", F.normalize(dense, dim=1), text.expand(len(dense), -1))


def class_response_map(seen: ImageFeatures, classes: torch.Tensor) -> torch.Tensor:
    """Return the response (B, h, w) of each patch to the first of the classes (K, D), less the mean of all classes.

    Before the mean, classes are weighted by how much the whole image looks like them: softmax(2 · cosine), over its
    mean. Source: CLIP Surgery (Li et al. 2023, arXiv 2304.05653), section 3.3, for several texts.
    """
    texts = F.normalize(classes, dim=-1)
    shares = (2 * F.normalize(seen.embedding, dim=-1) @ texts.T).softmax(dim=-1)
    weights = shares / shares.mean(dim=-1, keepdim=True)
    responses = weights[:, :, None, None] * torch.einsum("bdhw,kd->bkhw", F.normalize(seen.dense, dim=1), texts)
    return responses[:, 0] - responses.mean(dim=1)


def surgery_map(model: Clip, images: torch.Tensor, *, num_blocks: int) -> ImageFeatures:
    """Return `read_images` of no stage, with patches of CLIP Surgery's second path through the last `num_blocks`.

    On that path values attend to values, and feed-forward layers are skipped. A CLIP trained with one token per image
    responds least where the object is; its second path responds there. Source: Li et al. 2023, section 3.2.
    """
    visual = vision_tower(model)
    blocks = visual.transformer.resblocks
    if not 1 <= num_blocks < len(blocks):
        raise ConfigError(
            f"surgery of the last {num_blocks} blocks, but the image tower has {len(blocks)}: "
            f"give 1 to {len(blocks) - 1}"
        )
    first = len(blocks) - num_blocks
    # The inputs of the last blocks are needed. They are the outputs of the blocks one before, hence the indices.
    out = visual.forward_intermediates(
        images, indices=list(range(first - 1, len(blocks) - 1)), output_fmt="NLC", output_extra_tokens=True
    )
    both = zip(out["image_intermediates_prefix"], out["image_intermediates"], strict=True)
    inputs = [torch.cat(each, 1) for each in both]
    path = inputs[0]
    for block, tokens in zip(blocks[first:], inputs, strict=True):
        # In CLIP Surgery values attend to values, so only the block's value weights are used.
        attention, width = block.attn, tokens.shape[-1]
        weight, bias = attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :]
        values = F.linear(block.ln_1(tokens), weight, bias).view(*tokens.shape[:2], attention.num_heads, -1)
        values = values.transpose(1, 2)
        read = F.scaled_dot_product_attention(values, values, values)
        path = path + block.ls_1(attention.out_proj(read.transpose(1, 2).flatten(2)))
    dense = visual.ln_post(path[:, 1:]) @ visual.proj
    grid: tuple[int, int] = visual.grid_size
    return ImageFeatures((), dense.transpose(1, 2).reshape(len(dense), -1, *grid), out["image_features"])
