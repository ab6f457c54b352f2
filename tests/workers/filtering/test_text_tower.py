"""Texts without their padding, against open_clip's own forward over the whole context."""

from __future__ import annotations

import open_clip
import pytest
import torch

from pseudoris.workers.checkpoints.openclip import build_from_config, read_model_config
from pseudoris.workers.filtering.text_tower import TextTower

SMALL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3},
}
TEXTS = ["", "a red circle", "a small dotted red circle to the left of two large plain stars", "very " * 90]


def build_tower(**text_cfg):
    torch.manual_seed(0)
    model = build_from_config({**SMALL, "text_cfg": {**SMALL["text_cfg"], **text_cfg}})
    return model, TextTower(model), open_clip.SimpleTokenizer(context_length=77)(TEXTS)


@pytest.mark.parametrize("text_cfg", [{}, {"proj_bias": True}])
def test_a_text_without_its_padding_is_embedded_as_open_clip_embeds_it_with(text_cfg):
    model, tower, tokens = build_tower(**text_cfg)
    with torch.inference_mode():
        expected = model.encode_text(tokens)
        for row, length in enumerate(tower.lengths(tokens).tolist()):
            got = tower.encode(tokens[row : row + 1, :length])
            torch.testing.assert_close(got, expected[row : row + 1], rtol=1e-5, atol=1e-6)


def test_lengths_follow_from_each_text_alone_and_hold_its_eos():
    _, tower, tokens = build_tower()
    assert tower.lengths(tokens).tolist() == [4, 8, 16, 77]
    assert tower.lengths(tokens[1:2]).tolist() == [8]
    assert (tokens.argmax(dim=1) < tower.lengths(tokens)).all()


@pytest.mark.parametrize("text_cfg", [{"no_causal_mask": True}, {"pool_type": "last"}])
def test_a_tower_that_reads_its_padding_gets_all_of_it(text_cfg):
    model, tower, tokens = build_tower(**text_cfg)
    assert tower.lengths(tokens).tolist() == [77] * 4
    with torch.inference_mode():
        torch.testing.assert_close(tower.encode(tokens), model.encode_text(tokens))


@pytest.mark.parametrize("architecture", ["builtin:tiny/clip.json", "RN50-quickgelu"])
def test_the_presets_towers_are_cut(architecture):
    with torch.device("meta"):
        assert TextTower(build_from_config(read_model_config(architecture))).is_cut
