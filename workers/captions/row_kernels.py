"""Attention and norm of single rows for `static_towers`, each as one kernel on a GPU.

The functions below are plain torch: they are the definition, and run on a CPU. On a GPU Triton's kernels run in their
place, where it can compile them. The last bits of the two may differ, so `workers/stages.py` puts `triton_version` into
a run's identity; `decoder_choice` and `doctor` ask it too. In both, a row's bits must depend on that row alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F

from pseudoris.workers.captions.vocabulary_logits import score_dtype

# `triton_version` returns this if plain torch is used.
PLAIN = "absent"
# A program of `attend_image` attends from so many rows, and reads each of their crops once.
ROWS_A_PROGRAM = 64
_SHOWN_LETTERS = 200
# Plain torch gathers the image tokens of so many rows at once.
_ROWS_A_GATHER = 64


@cache
def triton_version() -> tuple[str, str]:
    """Return the version of Triton whose kernels this process runs on its GPU, or `PLAIN` and why, in one line."""
    try:
        import triton

        from pseudoris.workers.captions import triton_kernels

        triton_kernels.try_all(torch.device("cuda"))
    # A compiler, linker or driver may raise any error. Then plain torch is used, which needs none of them.
    except Exception as error:  # noqa: BLE001
        return PLAIN, in_one_line(error)
    return str(triton.__version__), ""


def in_one_line(error: Exception) -> str:
    """Return the type and the first letters of an error of a compiler or driver."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:_SHOWN_LETTERS]


def plain_attend_newest(
    projected: torch.Tensor, cache: torch.Tensor, position: torch.Tensor, sources: torch.Tensor
) -> torch.Tensor:
    """Write the newest keys and values of P rows, and return what their queries attend to, (P, heads · width).

    Sums are in float32 at least. No row reads a position of another that is written by this call.

    Args:
        projected: (P, 3, heads, width), the newest queries, keys and values.
        cache: (2, P, heads, T, width), keys and values.
        position: (P,) int64, of the newest.
        sources: (P, T) int32, the row that holds each position of a row; -1 for one that is not read. Positions
            behind the newest are not read.
    """
    queries, keys, values = projected.unbind(1)
    own, numbers = (torch.ones_like(some, dtype=torch.int64).cumsum(dim=0) - 1 for some in (sources[:, 0], sources[0]))
    cache[:, own, :, position] = torch.stack((keys, values), dim=1)
    is_read = ((numbers <= position[:, None]) & (sources >= 0))[:, None, :]
    # Unwritten cache entries may be NaN, and 0 · NaN is not 0. So values that are not read become 0 below.
    rows, dtype = sources.clamp(min=0), score_dtype(projected.dtype)
    past_keys, past_values = (part.transpose(1, 2)[rows, numbers].transpose(1, 2).to(dtype) for part in cache)
    scores = torch.einsum("phw,phtw->pht", queries.to(dtype), past_keys) * queries.shape[-1] ** -0.5
    weights = scores.masked_fill(~is_read, -torch.inf).softmax(dim=-1)
    mixed = torch.einsum("pht,phtw->phw", weights, past_values.masked_fill(~is_read[..., None], 0.0))
    return mixed.flatten(1).to(projected.dtype)


def plain_attend_image(
    queries: torch.Tensor, cache: torch.Tensor, crops: torch.Tensor, by_crop: torch.Tensor
) -> torch.Tensor:
    """Return what the queries of P rows attend to under their crops, (P, heads · width).

    Sums are in float32 at least.

    Args:
        queries: (P, heads, width).
        cache: (2, U, heads, T, width), keys and values of crops.
        crops: (P,) int64, of each row.
        by_crop: (P,) int64, the rows in the order of their crops. So a kernel reads a crop once for many rows.
    """
    dtype, scale, mixed = score_dtype(queries.dtype), queries.shape[-1] ** -0.5, []
    for some, part in zip(*(torch.split(each, _ROWS_A_GATHER) for each in (crops, queries)), strict=True):
        keys, values = cache.index_select(1, some).to(dtype)
        weights = (torch.einsum("phw,phtw->pht", part.to(dtype), keys) * scale).softmax(dim=-1)
        mixed.append(torch.einsum("pht,phtw->phw", weights, values))
    return torch.cat(mixed).flatten(1).to(queries.dtype)


def plain_shifted_norm(
    x: torch.Tensor, shift: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> torch.Tensor:
    """Return the layer norm of rows x (P, D) plus `shift` (D,), float32 at least, by `weight` and `bias`, (D,)."""
    rows, weight, bias = (each.to(shift.dtype) for each in (x, weight, bias))
    return F.layer_norm(rows + shift, shift.shape, weight, bias, eps).to(x.dtype)


def _operator(plain: Callable[..., Any], empty: Callable[..., Any], *mutated: str) -> Callable[..., Any]:
    """Return an operator that is `plain`, on a GPU Triton's kernel of its name; `empty` returns its results unset."""
    name = plain.__name__.removeprefix("plain_")
    operator = torch.library.custom_op(f"pseudoris::{name}", plain, mutates_args=mutated)
    operator.register_fake(empty)

    @operator.register_kernel("cuda")
    def _(*arguments: Any) -> Any:
        if triton_version()[0] == PLAIN:
            return plain(*arguments)
        from pseudoris.workers.captions import triton_kernels

        return getattr(triton_kernels, name)(*arguments)

    return operator


attend_newest = _operator(
    plain_attend_newest,
    lambda projected, cache, *_: projected.new_empty(len(projected), cache.shape[2] * cache.shape[4]),
    "cache",
)
attend_image = _operator(
    plain_attend_image, lambda queries, *_: queries.new_empty(len(queries), queries.shape[1] * queries.shape[2])
)
shifted_norm = _operator(plain_shifted_norm, lambda x, *_: torch.empty_like(x))
