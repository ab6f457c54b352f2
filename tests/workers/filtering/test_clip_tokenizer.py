"""Tokens against open_clip's own tokenizer."""

from __future__ import annotations

import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.workers.checkpoints.openclip import ClipTokenizer

CONTEXT = 12
OURS, THEIRS = ClipTokenizer(CONTEXT), open_clip.SimpleTokenizer(context_length=CONTEXT)


@given(st.lists(st.text(alphabet=st.sampled_from("abcdeiorst  '&;<>.-é1A\n"), max_size=30), min_size=1, max_size=4))
def test_any_texts_have_open_clips_tokens(texts):
    assert torch.equal(OURS(texts), THEIRS(texts))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "a photo of a red fire truck",
        "the dog's tail",
        "r &amp; b",
        "<end_of_text>",
        "two-tone",
        "very " * 40,
    ],
)
def test_known_hard_texts_have_open_clips_tokens(text):
    assert torch.equal(OURS([text]), THEIRS([text]))
