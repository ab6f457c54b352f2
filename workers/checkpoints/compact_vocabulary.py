"""A compact vocabulary: a weights file that keeps only the rows of the tokens it uses.

The tiny models know a few dozen of open_clip's 49,408 BPE tokens. Their file holds those rows and a tensor `token_ids`;
loading scatters the rows into tables of zeros. An unused token then has an embedding and a logit of exactly zero, which
is how the models were trained.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pseudoris.schemas.errors import ConfigError

TOKEN_IDS = "token_ids"
FULL_VOCABULARY = 49408
# Tables with one row (embedding) or one column (projection) per token: the end of the name, and the dimension of
# tokens.
_TOKEN_DIMENSION: dict[str, int] = {"token_embedding.weight": 0, "text_decoder.text_projection": 1}


def _token_dimension(name: str) -> int | None:
    """Which dimension of a table counts tokens; None for every other tensor."""
    return next((dim for ending, dim in _TOKEN_DIMENSION.items() if name.endswith(ending)), None)


def compact_vocabulary(state: Mapping[str, torch.Tensor], token_ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return a full state with its token tables reduced to `token_ids` (V,) int64, and with these ids added."""
    compact = {TOKEN_IDS: token_ids.clone()}
    for name, tensor in state.items():
        dimension = _token_dimension(name)
        compact[name] = tensor if dimension is None else tensor.index_select(dimension, token_ids).contiguous()
    return compact


def expand_vocabulary(state: Mapping[str, torch.Tensor], *, where: str) -> dict[str, torch.Tensor]:
    """Return the state in float32 with full token tables, zeros where the file has no row.

    A state without `token_ids` is returned unchanged, except that half-precision tensors become float32.

    Raises:
        ConfigError: An id is outside the vocabulary or repeated, or a table does not have one row per id.
    """
    full = {name: _as_float32(tensor) for name, tensor in state.items() if name != TOKEN_IDS}
    if TOKEN_IDS not in state:
        return full
    ids = state[TOKEN_IDS].to(torch.int64)
    if ids.ndim != 1 or len(set(ids.tolist())) != len(ids) or not bool(((ids >= 0) & (ids < FULL_VOCABULARY)).all()):
        raise ConfigError(f"weights '{where}': token_ids must be distinct numbers in [0, {FULL_VOCABULARY})")
    for name, tensor in full.items():
        dimension = _token_dimension(name)
        if dimension is not None:
            full[name] = _scatter(tensor, ids, dimension, what=f"weights '{where}': {name}")
    return full


def _as_float32(tensor: torch.Tensor) -> torch.Tensor:
    """Widens half-precision tensors; integers and wider floats stay as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _scatter(tensor: torch.Tensor, ids: torch.Tensor, dimension: int, *, what: str) -> torch.Tensor:
    """Puts each row (or column) at its token's row of a table of zeros."""
    if tensor.shape[dimension] != len(ids):
        raise ConfigError(f"{what} has {tensor.shape[dimension]} tokens and token_ids {len(ids)}: the file is damaged")
    shape = list(tensor.shape)
    shape[dimension] = FULL_VOCABULARY
    # In place: `index_copy` would hold the table twice, 25 MB each for `tiny`.
    return torch.zeros(shape, dtype=tensor.dtype).index_copy_(dimension, ids, tensor)
