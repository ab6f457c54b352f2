"""Builds and loads CoCa, CLIP and their tokenizer. Called by the engines, `training`, `interchange` and `recipes`.

Models and tokens must be open_clip's own, so that published weights give published results.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, cast

import torch
from open_clip import tokenizer
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.pretrained import get_pretrained_cfg
from torch import nn

from pseudoris.schemas.config import WeightsConfig
from pseudoris.schemas.errors import ConfigError
from pseudoris.workers.checkpoints.model_configs import read_model_config as read_model_config
from pseudoris.workers.checkpoints.published_weights import OPEN_CLIP_PREFIX, split_tag
from pseudoris.workers.checkpoints.tensor_files import load_module


def build_from_config(config: dict[str, Any]) -> nn.Module:
    """Return an open_clip model in eval mode with fresh weights; a CoCa if the config has a multimodal decoder."""
    arguments = {key: value for key, value in config.items() if key != "custom_text"}
    try:
        if "multimodal_cfg" in config:
            model: nn.Module = CoCa(**arguments)
            # open_clip 3.3 allocates this projection of the decoder but does not initialise it, so that is done here.
            projection = model.get_parameter("text_decoder.text_projection")
            nn.init.normal_(projection, std=projection.shape[0] ** -0.5)
        elif config.get("custom_text"):
            model = CustomTextCLIP(**arguments)
        else:
            model = CLIP(**arguments)
    except (TypeError, ValueError, AssertionError, AttributeError, ZeroDivisionError) as error:
        # open_clip does not check a config, so a wrong config raises any of these types.
        raise ConfigError(
            f"open_clip cannot build this architecture ({type(error).__name__}: {error}): correct its config"
        ) from error
    return model.eval()


def load_coca(architecture: str | None, weights: WeightsConfig) -> CoCa:
    """Return a CoCa in eval mode, float32, on the CPU; `architecture` as in `captions.architecture`."""
    config = read_model_config(architecture, is_captioner=True)
    check_activation(architecture, config, weights)
    return cast("CoCa", load_module(partial(build_from_config, config), weights))


def load_clip(architecture: str, weights: WeightsConfig) -> CLIP | CustomTextCLIP:
    """Return a CLIP in eval mode, float32, on the CPU; `architecture` as in `filtering.architecture`."""
    config = read_model_config(architecture, is_captioner=False)
    check_activation(architecture, config, weights)
    return cast("CLIP | CustomTextCLIP", load_module(partial(build_from_config, config), weights))


def tag_settings(weights: WeightsConfig) -> dict[str, Any]:
    """Return what open_clip knows of a hub tag, such as mean and std of its input; {} for all other weights."""
    is_tag = weights.uri.startswith(OPEN_CLIP_PREFIX)
    return (get_pretrained_cfg(*split_tag(weights)) or {}) if is_tag else {}


def check_activation(architecture: str | None, model_config: dict[str, object], weights: WeightsConfig) -> None:
    """Reject a hub tag if it and the architecture differ in QuickGELU: it would load, and give wrong results."""
    if not weights.uri.startswith(OPEN_CLIP_PREFIX):
        return
    wanted = bool(tag_settings(weights).get("quick_gelu", False))
    if wanted != bool(model_config.get("quick_gelu", False)):
        remedy = f"{architecture}-quickgelu" if wanted else str(architecture).removesuffix("-quickgelu")
        raise ConfigError(
            f"weights '{weights.uri}' were trained {'with' if wanted else 'without'} QuickGELU, and architecture "
            f"'{architecture}' is {'without' if wanted else 'with'} it: set architecture to '{remedy}'"
        )


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
