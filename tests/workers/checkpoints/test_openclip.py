"""Tokens against open_clip's own tokenizer."""

from __future__ import annotations

import json

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from pseudoris.schemas.config import ComputeConfig, WeightsConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.shard import MaskRecord, ShardImage
from pseudoris.workers.captions import CocaCaptioner
from pseudoris.workers.checkpoints.openclip import ClipTokenizer, build_from_config, load_clip, read_model_config
from pseudoris.workers.filtering.clip_embedder import ClipEmbedder
from pseudoris.workers.masks import rle

DRAWN = WeightsConfig(uri="random:0")


def with_few_weights(settings, path, *, width, layers):
    """The settings of a stage of paper, with the image size of its architecture and little else."""
    config = read_model_config(settings.architecture)
    for part in {"text_cfg", "multimodal_cfg"} & config.keys():
        config[part] |= {"width": 16, "heads": 2, "layers": 1}
    config["vision_cfg"] |= {"width": width, "layers": layers}
    path.write_text(json.dumps({**config, "embed_dim": 16}))
    return settings.model_copy(update={"architecture": str(path), "weights": WeightsConfig(uri="random:0")})


def test_both_models_of_paper_see_224_pixels(tmp_path):
    paper = load_config("paper")
    captioner, clip = (read_model_config(each.architecture)["vision_cfg"] for each in (paper.captions, paper.filtering))
    # ViT-L/14, and ResNet-50.
    assert (captioner["width"], captioner["layers"], captioner["patch_size"]) == (1024, 24, 14)
    assert clip["layers"] == [3, 4, 6, 3]
    compute = ComputeConfig(device="cpu")
    captions = with_few_weights(paper.captions, tmp_path / "coca.json", width=64, layers=1)
    (counts,) = rle.encode(torch.ones(1, 4, 4, dtype=torch.bool))
    image = ShardImage(0, "00ab", "0.png", b"", masks=(MaskRecord("00ab-0000", 0, (4, 4), counts, (0, 0, 4, 4), 16),))
    crops = CocaCaptioner(captions, compute).image_crops(image, np.zeros((4, 4, 3), np.uint8))
    assert crops.pixels.shape[-2:] == (224, 224)
    filtering = with_few_weights(paper.filtering, tmp_path / "clip.json", width=4, layers=[1, 1, 1, 1])
    embedder = ClipEmbedder(filtering, compute)
    assert embedder.crop_format.size == 224
    assert embedder.embed_crops([torch.zeros(1, 3, 224, 224)]).shape == (1, 16)


def test_every_weight_of_a_fresh_captioner_is_drawn():
    torch.manual_seed(1)
    config = read_model_config("builtin:tiny/coca.json")
    projection = build_from_config(config).text_decoder.text_projection
    assert projection.isfinite().all()
    assert projection.std().item() == pytest.approx(128**-0.5, rel=0.05)
    torch.manual_seed(1)
    assert torch.equal(projection, build_from_config(config).text_decoder.text_projection)


SOUND = {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ('{"embed_dim": 3}', "it needs embed_dim"),
        ("[" * 100_000, "is not JSON"),
        ('{"embed_dim": ' + "9" * 5_000 + "}", "is not JSON"),
        ('"' + "x" * 2**20 + '"', "is a file of 1,048,578 bytes, a model config has at most 1,048,576"),
        (json.dumps({**SOUND, "embed_dim": 10**12}), "embed_dim is 1000000000000; the numbers of a model are at most"),
        (json.dumps({**SOUND, "text_cfg": {"layers": -(10**9)}}), r"text_cfg\.layers is -1000000000"),
        (json.dumps({**SOUND, "vision_cfg": {"layers": [1, float("nan")]}}), r"vision_cfg\.layers is nan"),
        (json.dumps({**SOUND, "no_such_setting": 1}), "open_clip cannot build this architecture .TypeError"),
        (json.dumps({**SOUND, "vision_cfg": 3}), "open_clip cannot build this architecture"),
    ],
)
def test_a_config_that_is_none_or_absurd_is_refused_before_memory_is_taken(tmp_path, text, message):
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_clip(str(path), DRAWN)


CONTEXT = 12
OURS, THEIRS = ClipTokenizer(CONTEXT), open_clip.SimpleTokenizer(context_length=CONTEXT)


# Texts that are known to be hard.
HARD = [
    *("", "   ", "a photo of a red fire truck", "the dog's tail", "r &amp; b", "<end_of_text>", "two-tone"),
    "very " * 40,
]


@example(HARD)
@given(st.lists(st.text(alphabet=st.sampled_from("abcdeiorst  '&;<>.-é1A\n"), max_size=30), min_size=1, max_size=4))
def test_any_texts_have_open_clips_tokens(texts):
    assert torch.equal(OURS(texts), THEIRS(texts))
