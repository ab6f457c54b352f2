"""A small CoCa with diverse logits, and the crops, settings and token ids that go with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from open_clip.coca_model import CoCa

from pseudoris.schemas.config import CaptionsConfig, RunConfig, WeightsConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.workers.captions.decoding_rules import ImageCrops
from pseudoris.workers.captions.vocabulary_logits import SpecialTokens

VOCABULARY = 40
SPECIAL = SpecialTokens(sot=38, eos=39, pad=0)
CONTEXT_LENGTH = 12


def small_coca(
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    num_dead: int = 0,
    text: dict[str, Any] | None = None,
    decoder: dict[str, Any] | None = None,
    quick_gelu: bool = False,
    eos_bonus: float = 6.0,
) -> CoCa:
    """Return a CoCa of random weights so large that every crop and prefix has logits of its own.

    `num_dead` tokens from id 5 on have a column of zeros in the vocabulary projection; `eos_bonus` is added to every
    logit of EOS, so that captions end.
    """
    pooler = {"attentional_pool": True, "attn_pooler_queries": 6, "attn_pooler_heads": 2, "output_tokens": True}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CoCa(
            embed_dim=16,
            vision_cfg={"image_size": 8, "patch_size": 4, "width": 16, "head_width": 8, "layers": 1, **pooler},
            text_cfg={**_text(), "heads": 4, "embed_cls": True, "output_tokens": True, **(text or {})},
            multimodal_cfg={**_text(), **(decoder or {})},
            quick_gelu=quick_gelu,
        )
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.5)
            model.text_decoder.text_projection.normal_(std=0.7)
            model.text_decoder.text_projection[:, 5 : 5 + num_dead] = 0
            model.text_decoder.ln_final.bias.fill_(1.0)
            model.text_decoder.text_projection[:, SPECIAL.eos] += eos_bonus / 16
    return model.to(dtype).eval().requires_grad_(False)


def image_crops(
    *, num_masks: int, num_kinds: int = 1, seed: int = 0, dtype: torch.dtype = torch.float64, image_id: str = "00ab"
) -> ImageCrops:
    """Return crops of noise, one kind named `masked`, the others `context_<n>`."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(num_kinds, num_masks, 3, 8, 8, generator=generator, dtype=torch.float64)
    kinds = ("masked", *(f"context_{n}" for n in range(1, num_kinds)))
    return ImageCrops(image_id, kinds, tuple(range(num_masks)), pixels.to(dtype))


def captions_config(**changes: Any) -> CaptionsConfig:
    return CaptionsConfig.model_validate(
        {
            "architecture": "small",
            "weights": WeightsConfig(uri="random:0"),
            "max_length": CONTEXT_LENGTH,
            "cache_bytes": 2**26,
            **changes,
        }
    )


def narrow_config(folder: Path, *words: str) -> RunConfig:
    """Return the configuration of a run on a GPU, by a CoCa of random weights with CLIP's vocabulary and little else.

    `folder` gets the file of its architecture.
    """
    tower = {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    pooler = {"attentional_pool": True, "attn_pooler_queries": 6, "attn_pooler_heads": 2, "output_tokens": True}
    model = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 8, "patch_size": 4, "width": 32, "head_width": 16, "layers": 1, **pooler},
        "text_cfg": {**tower, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**tower, "layers": 2},
        "custom_text": True,
    }
    path = folder / "coca.json"
    path.write_text(json.dumps(model))
    sizes = [f"captions.architecture={path}", "captions.max_length=20", "captions.cache_bytes=16777216"]
    rules = ["captions.sampling.top_k=[2]", "captions.sampling.top_p=[0.8]", "captions.beam.num_beams=2"]
    on_gpu = ["compute.device=cuda", "placement.fused.num_gpus=1", "captions.weights.uri=random:0"]
    return load_config("tiny", assignments=[*on_gpu, *sizes, *rules, "captions.beam.num_groups=1", *words])


def _text() -> dict[str, Any]:
    return {"context_length": CONTEXT_LENGTH, "vocab_size": VOCABULARY, "width": 16, "heads": 2, "layers": 2}
