"""The functions of `row_kernels` in Triton, compiled at the first call. Called by `row_kernels.py` on a GPU.

Sizes are fixed, not tuned, because timing must not choose bits. A program has one row (and one head) for itself.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pseudoris.workers.captions.row_kernels import ROWS_A_PROGRAM

# A program holds so many bytes of a column of an image's tokens at once. `tl.dot` takes no width below 16.
_BLOCK_BYTES, _LEAST_WIDTH = 128, 16


def attend_newest(
    projected: torch.Tensor, cache: torch.Tensor, position: torch.Tensor, sources: torch.Tensor
) -> torch.Tensor:
    """As `row_kernels.attend_newest`; contiguous tensors."""
    _, num_rows, heads, length, width = cache.shape
    mixed = projected.new_empty(num_rows, heads * width)
    sizes = {"padded_length": triton.next_power_of_2(length), "padded_width": triton.next_power_of_2(width)}
    attend_newest_kernel[num_rows * heads,](
        projected.contiguous(),
        cache,
        cache[1],
        position,
        sources,
        mixed,
        heads,
        length,
        width,
        **sizes,
        scale=width**-0.5,
        sums=_sums(projected.dtype),
        num_warps=1,
    )
    return mixed


@triton.jit
def attend_newest_kernel(
    projected,
    all_keys,
    all_values,
    position,
    sources,
    mixed,
    heads,
    length,
    width,
    padded_length: tl.constexpr,
    padded_width: tl.constexpr,
    scale: tl.constexpr,
    sums: tl.constexpr,
):
    """Attend from the newest position of one row and head."""
    program = tl.program_id(0).to(tl.int64)
    row, head = program // heads, program % heads
    column, time = tl.arange(0, padded_width), tl.arange(0, padded_length)
    is_column, newest = column < width, tl.load(position + row)
    own = projected + (row * 3 * heads + head) * width + column
    query = tl.load(own, mask=is_column, other=0.0).to(sums)
    key = tl.load(own + heads * width, mask=is_column, other=0.0)
    value = tl.load(own + 2 * heads * width, mask=is_column, other=0.0)
    place = (program * length + newest) * width + column
    tl.store(all_keys + place, key, mask=is_column)
    tl.store(all_values + place, value, mask=is_column)
    source = tl.load(sources + row * length + time, mask=time < length, other=-1).to(tl.int64)
    # The newest entry is taken from registers, because its store may not have reached memory yet.
    is_past, is_read = (time < newest) & (source >= 0), (time <= newest) & (source >= 0)
    past = ((source * heads + head) * length + time)[:, None] * width + column[None, :]
    is_loaded, is_newest = is_past[:, None] & is_column[None, :], (time == newest)[:, None]
    keys = tl.load(all_keys + past, mask=is_loaded, other=0.0).to(sums)
    keys = tl.where(is_newest, key.to(sums)[None, :], keys)
    scores = tl.where(is_read, tl.sum(query[None, :] * keys, axis=1) * scale, -float("inf"))
    weights = tl.exp(scores - tl.max(scores, axis=0))
    values = tl.load(all_values + past, mask=is_loaded, other=0.0).to(sums)
    values = tl.where(is_newest, value.to(sums)[None, :], values)
    result = tl.sum(weights[:, None] * values, axis=0) / tl.sum(weights, axis=0)
    tl.store(mixed + program * width + column, result.to(mixed.dtype.element_ty), mask=is_column)


def attend_image(
    queries: torch.Tensor, cache: torch.Tensor, crops: torch.Tensor, by_crop: torch.Tensor
) -> torch.Tensor:
    """As `row_kernels.attend_image`; contiguous tensors."""
    num_rows, heads, width = queries.shape
    mixed = queries.new_empty(num_rows, heads * width)
    attend_image_kernel[triton.cdiv(num_rows, ROWS_A_PROGRAM), heads](
        queries.contiguous(),
        cache[0],
        cache[1],
        crops,
        by_crop,
        mixed,
        num_rows,
        heads,
        cache.shape[3],
        width,
        padded_width=max(triton.next_power_of_2(width), _LEAST_WIDTH),
        tile=ROWS_A_PROGRAM,
        block=_BLOCK_BYTES // cache.element_size(),
        scale=width**-0.5,
        sums=_sums(queries.dtype),
        # With four, ptxas spills registers of 64 rows.
        num_warps=8,
    )
    return mixed


@triton.jit
def attend_image_kernel(
    queries,
    all_keys,
    all_values,
    crops,
    by_crop,
    mixed,
    num_rows,
    heads,
    length,
    width,
    padded_width: tl.constexpr,
    tile: tl.constexpr,
    block: tl.constexpr,
    scale: tl.constexpr,
    sums: tl.constexpr,
):
    """Attend from a tile of rows, of one head, to the image tokens of one of their crops after the other."""
    number, head = tl.program_id(0) * tile + tl.arange(0, tile), tl.program_id(1)
    column, is_row = tl.arange(0, padded_width), number < num_rows
    row = tl.load(by_crop + number, mask=is_row, other=0)
    crop_of = tl.load(crops + row, mask=is_row, other=-1)
    place, is_place = (
        (row[:, None] * heads + head) * width + column[None, :],
        is_row[:, None] & (column < width)[None, :],
    )
    query = tl.load(queries + place, mask=is_place, other=0.0)
    result = tl.zeros((tile, padded_width), dtype=sums)
    crop = tl.max(crop_of, axis=0)
    while crop >= 0:
        highest, total = tl.full((tile,), -float("inf"), dtype=sums), tl.zeros((tile,), dtype=sums)
        values = tl.zeros((tile, padded_width), dtype=sums)
        for first in range(0, length, block):
            time = first + tl.arange(0, block)
            at = ((crop * heads + head) * length + time)[:, None] * width + column[None, :]
            is_at = (time < length)[:, None] & (column < width)[None, :]
            key = tl.load(all_keys + at, mask=is_at, other=0.0)
            scores = tl.dot(query, tl.trans(key), input_precision="ieee", out_dtype=sums) * scale
            scores = tl.where((time < length)[None, :], scores, -float("inf"))
            before, highest = highest, tl.maximum(highest, tl.max(scores, axis=1))
            weights, kept = tl.exp(scores - highest[:, None]), tl.exp(before - highest)
            value = tl.load(all_values + at, mask=is_at, other=0.0)
            values *= kept[:, None]
            values += tl.dot(weights.to(value.dtype), value, input_precision="ieee", out_dtype=sums)
            total = total * kept + tl.sum(weights, axis=1)
        # Rows of other crops were computed too, because a tile has one size. They take nothing from it.
        result = tl.where((crop_of == crop)[:, None], values / total[:, None], result)
        crop = tl.max(tl.where(crop_of < crop, crop_of, -1), axis=0)
    tl.store(mixed + place, result.to(mixed.dtype.element_ty), mask=is_place)


def shifted_norm(
    x: torch.Tensor, shift: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> torch.Tensor:
    """As `row_kernels.shifted_norm`; contiguous tensors."""
    normed, width = torch.empty_like(x), x.shape[1]
    sizes = {"padded_width": triton.next_power_of_2(width), "eps": eps, "sums": _sums(x.dtype)}
    shifted_norm_kernel[len(x),](x, shift, weight, bias, normed, width, **sizes, num_warps=4)
    return normed


@triton.jit
def shifted_norm_kernel(
    x, shift, weight, bias, normed, width, padded_width: tl.constexpr, eps: tl.constexpr, sums: tl.constexpr
):
    """Shift and normalise one row."""
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, padded_width)
    is_column, own = column < width, row * width + column
    total = tl.load(x + own, mask=is_column, other=0.0).to(sums)
    total += tl.load(shift + column, mask=is_column, other=0.0)
    centred = tl.where(is_column, total - tl.sum(total, axis=0) / width, 0.0)
    scale = tl.load(weight + column, mask=is_column, other=0.0).to(sums)
    offset = tl.load(bias + column, mask=is_column, other=0.0).to(sums)
    result = centred / tl.sqrt(tl.sum(centred * centred, axis=0) / width + eps) * scale + offset
    tl.store(normed + own, result.to(normed.dtype.element_ty), mask=is_column)


def try_all(device: torch.device) -> None:
    """Compile and run each kernel once; what raises is Triton's, the compiler's or the driver's."""
    row = torch.ones(1, 8, device=device)
    shifted_norm(row, row[0], row[0], row[0], 1e-5)
    at, sources = torch.zeros(1, dtype=torch.int64, device=device), torch.zeros(1, 1, dtype=torch.int32, device=device)
    cache = torch.zeros(2, 1, 1, 1, 8, device=device)
    attend_newest(row.expand(3, 8).reshape(1, 3, 1, 8), cache, at, sources)
    attend_image(row.view(1, 1, 8), cache, at, at)


def _sums(dtype: torch.dtype) -> tl.dtype:
    return tl.float64 if dtype == torch.float64 else tl.float32
