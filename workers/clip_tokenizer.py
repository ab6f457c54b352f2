"""The byte-pair tokenizer of CoCa and CLIP, with a cache of words: captions repeat a few in many orders."""

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


# Plain words: cleaning does not change them, and the tokens of each depend on the word alone.
_PLAIN: Final = re.compile(r"[a-z ]*")
# A few megabytes; the words of a real run are fewer.
_MAX_WORDS: Final = 50_000


class ClipTokenizer:
    """open_clip's BPE tokenizer, with a cache of the tokens of plain words.

    Source: open_clip 3.3.0, tokenizer.py. There, cleaning a text takes longer than all other steps.
    """

    def __init__(self, context_length: int) -> None:
        self._tokeniser = byte_pair_encoder()
        self._context_length = context_length
        self._words: dict[str, list[int]] = {}

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Return (T, context_length) int64: start, tokens, end, zeros; a text that is too long is cut."""
        start, end = self._tokeniser.sot_token_id, self._tokeniser.eot_token_id
        rows = []
        for text in texts:
            tokens = self._encode(text)[: self._context_length - 2]
            padding = [0] * (self._context_length - 2 - len(tokens))
            rows.append([start, *tokens, end, *padding])
        return torch.tensor(rows, dtype=torch.int64).view(len(rows), self._context_length)

    def num_tokens(self, text: str) -> int:
        """Return how many tokens the whole text takes, start and end included, whatever the context's length."""
        return len(self._encode(text)) + 2

    def _encode(self, text: str) -> list[int]:
        if _PLAIN.fullmatch(text) is None:
            return list(self._tokeniser.encode(text))
        return [token for word in text.split() for token in self._of_word(word)]

    def _of_word(self, word: str) -> list[int]:
        tokens = self._words.get(word)
        if tokens is None:
            tokens = list(self._tokeniser.encode(word))
            # Several threads count tokens: one must not look up what another has just cleared.
            if len(self._words) >= _MAX_WORDS:
                self._words.clear()
            self._words[word] = tokens
        return tokens


def num_clip_tokens(text: str) -> int:
    """Return how many tokens CLIP makes of the whole text, start and end included."""
    return _counting().num_tokens(text)


@functools.cache
def _counting() -> ClipTokenizer:
    # Counts are for the whole text, whatever the context's length.
    return ClipTokenizer(context_length=77)
