"""CLIP's tokenizer: texts as tokens, and how many they take. Called by the engines, `training` and `interchange`.

Tokens must be open_clip's own, so that published weights give published results.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Final

import torch
from open_clip import tokenizer


@functools.cache
def byte_pair_encoder() -> tokenizer.SimpleTokenizer:
    """Return open_clip's tokenizer of 49,408 tokens; only what depends on no context's length may be used.

    open_clip makes one when it is imported. Another one would hold 22 MB, and takes 0.1 s to read its merges.
    """
    return getattr(tokenizer, "_tokenizer", None) or tokenizer.SimpleTokenizer()


# Matches plain words. Cleaning does not change them, and a word's tokens depend on that word alone.
_PLAIN: Final = re.compile(r"[a-z ]*")
# The cache holds the tokens of at most this many words, in a few megabytes. A real run has fewer words.
_MAX_WORDS: Final = 50_000


class ClipTokenizer:
    """open_clip's BPE tokenizer, with a cache of the tokens of plain words.

    Source: open_clip 3.3.0, tokenizer.py. There, cleaning a text takes longer than all other steps.
    """

    def __init__(self, context_length: int) -> None:
        self._tokeniser = byte_pair_encoder()
        self.context_length = context_length
        self._encode_word = functools.lru_cache(_MAX_WORDS)(self._tokeniser.encode)

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Return (T, context_length) int64: start, tokens, end, zeros; a text that is too long is cut."""
        return self.padded([self.tokens(text) for text in texts])

    def tokens(self, text: str) -> list[int]:
        """Return start, tokens and end of a text, at most `context_length` in all."""
        start, end = self._tokeniser.sot_token_id, self._tokeniser.eot_token_id
        return [start, *self._encode(text)[: self.context_length - 2], end]

    def padded(self, texts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the tokens of texts as (T, context_length) int64, zeros behind them."""
        rows = [[*tokens, *[0] * (self.context_length - len(tokens))] for tokens in texts]
        return torch.tensor(rows, dtype=torch.int64).view(len(rows), self.context_length)

    def num_tokens(self, text: str) -> int:
        """Return how many tokens the whole text takes, start and end included, whatever the context's length."""
        return len(self._encode(text)) + 2

    def _encode(self, text: str) -> list[int]:
        if _PLAIN.fullmatch(text) is None:
            return list(self._tokeniser.encode(text))
        return [token for word in text.split() for token in self._encode_word(word)]


def num_clip_tokens(text: str) -> int:
    """Return how many tokens CLIP makes of the whole text, start and end included."""
    return _counting_tokenizer().num_tokens(text)


@functools.cache
def _counting_tokenizer() -> ClipTokenizer:
    return ClipTokenizer(context_length=77)
