"""Texts over the tree of their prefixes are embedded as open_clip embeds each whole context."""

from __future__ import annotations

import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pseudoris.workers.checkpoints.openclip import build_from_config, read_model_config
from pseudoris.workers.filtering.text_tower import TextTower, tokens_of
from pseudoris.workers.filtering.text_tree import cut_into_tiles

SMALL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3},
}
NODES = 80
TOKENISE = open_clip.SimpleTokenizer(context_length=77)
TEXTS = st.lists(st.lists(st.sampled_from(["a", "red", "dotted", "star"]), max_size=9).map(" ".join), min_size=1)


def build_tower(**text_cfg):
    torch.manual_seed(0)
    model = build_from_config({**SMALL, "text_cfg": {**SMALL["text_cfg"], **text_cfg}}).eval()
    return model, TextTower(model)


MODEL, TOWER = build_tower()


def embed(tower, contexts):
    found = torch.zeros(len(contexts), 32)
    with torch.inference_mode():
        for tile in cut_into_tiles(tokens_of(contexts), NODES):
            found[torch.from_numpy(tile.texts)] = tower.encode_tile(tile)
    return found


@pytest.mark.parametrize("text_cfg", [{}, {"proj_bias": True}])
def test_texts_that_share_prefixes_are_embedded_as_open_clip_embeds_each(text_cfg):
    model, tower = build_tower(**text_cfg)
    contexts = TOKENISE(["", "a red circle", "a red star", "a red circle", "very " * 90, "a small dotted star " * 3])
    with torch.inference_mode():
        torch.testing.assert_close(embed(tower, contexts), model.encode_text(contexts), rtol=1e-5, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(TEXTS)
def test_a_text_has_the_same_bits_in_any_company(texts):
    together = embed(TOWER, TOKENISE(texts))
    alone = torch.cat([embed(TOWER, TOKENISE([text])) for text in texts])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("text_cfg", [{"no_causal_mask": True}, {"pool_type": "last"}])
def test_a_tower_that_reads_its_padding_has_no_tree(text_cfg):
    _, tower = build_tower(**text_cfg)
    assert not tower.is_tree


@pytest.mark.parametrize("architecture", ["builtin:tiny/clip.json", "RN50-quickgelu"])
def test_the_presets_towers_have_a_tree(architecture):
    with torch.device("meta"):
        assert TextTower(build_from_config(read_model_config(architecture))).is_tree


def test_tokens_end_with_eos():
    assert [len(row) for row in tokens_of(TOKENISE(["", "a red circle", "very " * 90]))] == [2, 5, 77]
