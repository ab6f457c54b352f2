"""The two towers of a CLIP as features: stages of the image, its dense map in the joint space, words of a text.

Plain functions over open_clip's own modules, through its own `forward_intermediates`: no hook, no copy of a weight.
They take any CLIP of open_clip whose image tower is a ViT without an attention pooler; gradients flow, unless the
caller says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transformer import TextTransformer, VisionTransformer

from schemas.errors import ConfigError

Clip: TypeAlias = CLIP | CustomTextCLIP


@dataclass(frozen=True)
class ImageFeatures:
    """What an image tower says of B images on its grid of h × w patches.

    Attributes:
        stages: (B, C, h, w) a wanted layer, the blocks' own outputs, in the order asked for.
        dense: (B, D, h, w), each patch projected into the joint space as if it were the pooled token; not normalised.
        embedding: (B, D), open_clip's `encode_image`; not normalised.
    """

    stages: tuple[torch.Tensor, ...]
    dense: torch.Tensor
    embedding: torch.Tensor


@dataclass(frozen=True)
class TextFeatures:
    """What a text tower says of T texts of L tokens.

    Attributes:
        words: (T, L, C), the last layer normalised by `ln_final`, before pooling.
        is_word: (T, L) bool, true from the start token to the end token; padding is false.
        embedding: (T, D), open_clip's `encode_text`; not normalised.
    """

    words: torch.Tensor
    is_word: torch.Tensor
    embedding: torch.Tensor


def vision_tower(model: Clip) -> VisionTransformer:
    """Return the image tower, whose patches can be read one by one.

    Raises:
        ConfigError: it is no ViT, or an attention pooler stands behind it: neither has a patch in the joint space.
    """
    visual = model.visual
    if not isinstance(visual, VisionTransformer) or visual.attn_pool is not None or visual.proj is None:
        kind = "a ViT with an attention pooler" if isinstance(visual, VisionTransformer) else type(visual).__name__
        raise ConfigError(
            f"the image tower is {kind}, and only a plain ViT has patches in the joint space: "
            "choose an architecture such as ViT-B-16, or builtin:tiny/scene_clip.json"
        )
    return visual


def image_blocks(visual: VisionTransformer, layers: Sequence[int], *, setting: str = "layers") -> list[int]:
    """Return the numbers from 0 of an image tower's blocks; negative ones are counted from the last.

    Args:
        visual: The image tower.
        layers: The blocks.
        setting: What a user calls them.

    Raises:
        ConfigError: a block that it does not have.
    """
    last = len(visual.transformer.resblocks) - 1
    wanted = [layer + last + 1 if layer < 0 else layer for layer in layers]
    if not all(0 <= layer <= last for layer in wanted):
        raise ConfigError(f"{setting}={list(layers)}: the image tower has blocks 0 to {last}; choose among them")
    return wanted


def read_images(model: Clip, images: torch.Tensor, *, layers: Sequence[int] = ()) -> ImageFeatures:
    """Return the features of images (B, 3, S, S) float, normalised as the model's weights expect; S its image size.

    `layers` are block numbers from 0; negative ones count from the last.

    Raises:
        ConfigError: an image tower without patches in the joint space, or a layer that it does not have.
    """
    visual = vision_tower(model)
    last, wanted = len(visual.transformer.resblocks) - 1, image_blocks(visual, layers)
    taken = sorted({*wanted, last})
    out = visual.forward_intermediates(images, indices=taken)
    maps: dict[int, torch.Tensor] = dict(zip(taken, out["image_intermediates"], strict=True))
    dense = visual.ln_post(maps[last].permute(0, 2, 3, 1)) @ visual.proj
    return ImageFeatures(tuple(maps[layer] for layer in wanted), dense.permute(0, 3, 1, 2), out["image_features"])


def read_texts(model: Clip, tokens: torch.Tensor) -> TextFeatures:
    """Return the features of texts (T, L) int64, L the context's length, as `TextTokeniser` makes them.

    Raises:
        ConfigError: the text tower is not open_clip's own, or appends a class token, as CoCa's does.
    """
    tower = model.text if isinstance(model, CustomTextCLIP) else model
    if not isinstance(tower, CLIP | TextTransformer) or getattr(tower, "cls_emb", None) is not None:
        raise ConfigError(
            f"the text tower is {type(tower).__name__}, and only open_clip's own without a class token is read: "
            "choose an architecture such as ViT-B-16, or builtin:tiny/scene_clip.json"
        )
    if isinstance(tower, CLIP):
        out = tower.forward_intermediates(text=tokens, text_indices=1, normalize=False, normalize_intermediates=True)
    else:
        out = tower.forward_intermediates(tokens, indices=1, normalize_intermediates=True, output_fmt="NLC")
    # The end token has the highest number, by which open_clip finds it too.
    ends = tokens.argmax(dim=1, keepdim=True)
    is_word = torch.arange(tokens.shape[1], device=tokens.device) <= ends
    return TextFeatures(out["text_intermediates"][-1], is_word, out["text_features"])


def response_map(
    dense: torch.Tensor, embedding: torch.Tensor, *, redundant: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the response (B, h, w) of each patch to a text: their cosine in the joint space.

    Args:
        dense: (B, D, h, w), from `read_images`.
        embedding: (B, D) texts, one an image, or (1, D) one for all.
        redundant: (R, D) texts, such as other categories: what a patch has in common with all of them says nothing
            of this one, and their mean response is taken off.

    Source: CLIP Surgery (Li et al. 2023, arXiv 2304.05653), section 3.3, feature surgery for one text: the product of
    the patch's features with the text's, less those with the redundant texts' mean.
    """
    text = F.normalize(embedding, dim=-1)
    if redundant is not None:
        text = text - F.normalize(redundant, dim=-1).mean(0, keepdim=True)
    return torch.einsum("bdhw,bd->bhw", F.normalize(dense, dim=1), text.expand(len(dense), -1))
