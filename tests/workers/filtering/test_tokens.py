"""Tokens against open_clip's own tokenizer."""

from __future__ import annotations

import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workers.filtering import tokens
from workers.filtering.tokens import TextTokeniser

CONTEXT = 12
OURS, THEIRS = TextTokeniser(CONTEXT), open_clip.SimpleTokenizer(context_length=CONTEXT)


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


@given(st.text(alphabet=st.sampled_from("abcdeiorst  '&;<>.-é1A"), max_size=60))
def test_the_number_of_tokens_is_that_of_open_clip_in_a_context_without_end(text):
    whole = open_clip.SimpleTokenizer(context_length=200)
    assert OURS.num_tokens(text) == int((whole(text) != 0).sum())


def test_kept_words_are_bounded(monkeypatch):
    monkeypatch.setattr(tokens, "_MAX_WORDS", 2)
    tokeniser = TextTokeniser(CONTEXT)
    texts = ["a red star", "blue moon over a red star"]
    assert torch.equal(tokeniser(texts), THEIRS(texts))
    assert len(tokeniser._words) <= 2


def test_no_texts_have_no_tokens():
    assert OURS([]).shape == (0, CONTEXT)
