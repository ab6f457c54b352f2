"""Texts over the tree of their prefixes are embedded as open_clip embeds each whole context."""

from __future__ import annotations

import open_clip
import pytest
import torch
import torch.nn.functional as F

from pseudoris.workers.checkpoints.openclip import build_from_config, read_model_config
from pseudoris.workers.filtering.clip_embedder import TextTower, cut_into_tiles

SMALL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3},
}
NODES = 80
TOKENISE = open_clip.SimpleTokenizer(context_length=77)


def build_tower(dtype=torch.float32, **text_cfg):
    torch.manual_seed(0)
    model = build_from_config({**SMALL, "text_cfg": {**SMALL["text_cfg"], **text_cfg}}).eval().to(dtype)
    return model, TextTower(model)


def embed(tower, contexts):
    """Return the tower's embeddings of all texts, over as many tiles as they need."""
    found = torch.zeros(len(contexts), 32)
    texts = [row[: row.index(max(row)) + 1] for row in contexts.tolist()]
    with torch.inference_mode():
        for tile in cut_into_tiles(texts, NODES):
            found[torch.from_numpy(tile.texts)] = tower.encode_tile(tile)
    return found


# They take three tiles. One long text each fills two of them.
LONG = ["very " * 90, "small star " * 60, "a small dotted star " * 3]
SENTENCES = ["", "a red circle", "a red star", "a red circle", *LONG]


@pytest.mark.parametrize(
    ("text_cfg", "dtype", "tolerance"),
    [
        ({}, torch.float32, 1e-6),
        ({"proj_bias": True}, torch.float32, 1e-6),
        ({"width": 256, "heads": 4}, torch.float32, 1e-6),
        ({}, torch.bfloat16, 0.02),
    ],
    ids=["plain", "projection with a bias", "packed products", "bfloat16"],
)
def test_texts_that_share_prefixes_are_embedded_as_open_clip_embeds_each(text_cfg, dtype, tolerance):
    model, tower = build_tower(dtype, **text_cfg)
    contexts = TOKENISE(SENTENCES)
    with torch.inference_mode():
        expected = F.normalize(model.encode_text(contexts).float(), dim=-1)
    torch.testing.assert_close(embed(tower, contexts), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("architecture", ["builtin:tiny/clip.json", "RN50-quickgelu"])
def test_the_presets_towers_have_a_tree(architecture):
    with torch.device("meta"):
        assert TextTower(build_from_config(read_model_config(architecture))).is_tree
