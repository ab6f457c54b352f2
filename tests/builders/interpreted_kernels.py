"""Runs Triton's kernels by its interpreter, chosen before Triton is imported, beside the definitions."""

from __future__ import annotations

import json
import sys

import torch

from pseudoris.workers.captions import row_kernels, triton_kernels

NEWEST = 3


def attention(dtype, rows=7, heads=3, length=5, width=12):
    """Return arguments: rows take past positions from others, and positions behind the newest were never written."""
    numbers = torch.Generator().manual_seed(rows)
    projected = torch.randn(rows, 3, heads, width, generator=numbers).to(dtype)
    cache = torch.randn(2, rows, heads, length, width, generator=numbers).to(dtype)
    cache[:, :, :, NEWEST:] = torch.nan
    sources = torch.randint(0, rows, (rows, length), generator=numbers, dtype=torch.int32)
    sources[:, NEWEST] = torch.arange(rows)
    # Padding: of the past, and the newest itself. Row 1 takes its own past.
    sources[2, 1] = sources[4, NEWEST] = -1
    sources[1] = 1
    return projected, cache, torch.tensor([NEWEST]), sources


def norm(dtype, rows=7, width=24):
    numbers = torch.Generator().manual_seed(rows)
    shapes = [(rows, width), (rows, width), (width,), (width,)]
    return *(torch.randn(*shape, generator=numbers).to(dtype) for shape in shapes), 1e-5


def compared(dtype):
    """Return the largest differences, and whether what must be equal bit for bit is."""
    projected, cache, position, sources = attention(dtype)
    written, alone = cache.clone(), cache[:, 1:2].clone()
    expected = row_kernels.attend_newest(projected, written, position, sources)
    found = triton_kernels.attend_newest(projected, cache, position, sources)
    one = triton_kernels.attend_newest(projected[1:2].clone(), alone, position, torch.zeros_like(sources[:1]))
    x, addend, *rest = norm(dtype)
    sums = {}
    for name, each in (("norm", addend), ("norm, one addend for all", addend[0].expand_as(x))):
        pairs = zip(triton_kernels.add_norm(x, each, *rest), row_kernels.add_norm(x, each, *rest), strict=True)
        sums[name] = max(difference(*pair) for pair in pairs)
    first, whole = triton_kernels.add_norm(x[1:2], addend[1:2], *rest), triton_kernels.add_norm(x, addend, *rest)
    return {
        "attention": difference(found, expected),
        **sums,
        "is written": torch.equal(cache[:, :, :, NEWEST], projected[:, 1:].transpose(0, 1)),
        "writes nothing else": torch.equal(cache.nan_to_num(), written.nan_to_num()),
        "attention of a row alone": torch.equal(found[1:2], one),
        "norm of a row alone": all(torch.equal(a, b[1:2]) for a, b in zip(first, whole, strict=True)),
    }


def difference(one, other):
    return float((one - other).abs().max())


if __name__ == "__main__":
    dtypes = (torch.float64, torch.float32, torch.bfloat16)
    json.dump({str(dtype).removeprefix("torch."): compared(dtype) for dtype in dtypes}, sys.stdout)
