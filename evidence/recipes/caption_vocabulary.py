"""The few BPE tokens that captions use, renumbered from 0 in the order of their ids.

The models are trained with these rows alone. The rest of open_clip's 49,408 tokens would have rows of zeros: their
logits are exactly zero, so that they enter the softmax as one constant, log(49408 − used). Order is kept: the end token
stays the largest, by which CLIP finds it, and token 0 stays the padding. The ids are in the shipped files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from open_clip import get_tokenizer

from evidence.recipes.caption_styles import Say, words_beyond
from evidence.recipes.scene_texts import expression_words, noisy_caption
from pseudoris.synthworld.attributes import CATEGORIES, COLOURS, PARTS, PATTERNS, SIZES

FULL_SIZE = 49408
PAD, START, END = 0, 49406, 49407
FUNCTION_WORDS: tuple[str, ...] = ("a", "an", "the", "of", "with", "photo", "picture", "image")
CONTENT_WORDS: tuple[str, ...] = (*CATEGORIES, *COLOURS, *PATTERNS, *SIZES, *PARTS)
MAX_TOKENS = 16


@lru_cache(maxsize=1)
def _tokenizer() -> object:
    return get_tokenizer("ViT-B-32")


@lru_cache(maxsize=4096)
def word_ids(word: str) -> tuple[int, ...]:
    """Return the BPE ids of one word."""
    return tuple(_tokenizer().encode(word))  # type: ignore[attr-defined]


@dataclass(frozen=True)
class CompactVocabulary:
    """ids: the used BPE ids in ascending order; a compact token is a position in it.

    `content_words` are those that a word head learns.
    """

    ids: tuple[int, ...]
    content_words: tuple[str, ...] = CONTENT_WORDS

    @property
    def unused_logit(self) -> float:
        """The logarithm of the number of unused tokens, which enter the softmax with logits of zero."""
        return math.log(FULL_SIZE - len(self.ids))

    def encode(self, captions: list[str]) -> torch.Tensor:
        """Return compact tokens (B, 16) int64: start, words, end, padding.

        Raises:
            ValueError: a caption is too long or holds a token that is not in the vocabulary.
        """
        rows = torch.zeros(len(captions), MAX_TOKENS, dtype=torch.int64)
        for row, caption in enumerate(captions):
            ids = [START, *(i for word in caption.split() for i in word_ids(word)), END]
            if len(ids) > MAX_TOKENS:
                raise ValueError(f"caption '{caption}' has {len(ids)} tokens, at most {MAX_TOKENS} are trained")
            rows[row, : len(ids)] = torch.tensor([self._position(i, caption) for i in ids])
        return rows

    def _position(self, token_id: int, caption: str) -> int:
        try:
            return self.ids.index(token_id)
        except ValueError as error:
            raise ValueError(f"caption '{caption}' holds token {token_id}, which is not in the vocabulary") from error

    def content(self, captions: list[str]) -> torch.Tensor:
        """Return which content words each caption holds, (B, number of content words) float of 0 and 1."""
        return torch.tensor([[float(w in caption.split()) for w in self.content_words] for caption in captions])


def caption_vocabulary(say: Say = noisy_caption) -> CompactVocabulary:
    """Return the vocabulary of the training captions; that of the default the shipped captioner and CLIP use."""
    function, content = words_beyond(say)
    return replace(
        _vocabulary((*FUNCTION_WORDS, *CONTENT_WORDS, *function, *content)), content_words=(*CONTENT_WORDS, *content)
    )


def expression_vocabulary() -> CompactVocabulary:
    """Return the vocabulary of human expressions: words of the captions, and of position, relation and number.

    It is for a text tower on which a model that learns from expressions is built.
    """
    return _vocabulary((*FUNCTION_WORDS, *CONTENT_WORDS, *expression_words()))


def _vocabulary(words: tuple[str, ...]) -> CompactVocabulary:
    return CompactVocabulary(tuple(sorted({PAD, START, END, *(i for word in words for i in word_ids(word))})))
