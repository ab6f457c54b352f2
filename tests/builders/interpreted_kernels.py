"""Runs Triton's kernels by its interpreter, chosen before Triton is imported, beside the definitions."""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
from triton import language
from triton.runtime import interpreter

from pseudoris.workers.captions import row_kernels, triton_kernels

# The newest positions of rows. Row 6 has just begun.
NEWEST = torch.tensor([3, 3, 4, 2, 3, 1, 0])


def attention(dtype, heads=3, length=5, width=12):
    """Return arguments: rows take past positions from others, and positions behind the newest were never written."""
    numbers, rows = torch.Generator().manual_seed(7), torch.arange(len(NEWEST))
    projected = torch.randn(len(rows), 3, heads, width, generator=numbers).to(dtype)
    cache = torch.randn(2, len(rows), heads, length, width, generator=numbers).to(dtype)
    for row, newest in enumerate(NEWEST):
        cache[:, row, :, newest:] = torch.nan
    sources = torch.full((len(rows), length), -1, dtype=torch.int32)
    for row, newest in enumerate(NEWEST):
        for position in range(newest):
            written = torch.nonzero(position < NEWEST)[:, 0]
            sources[row, position] = written[torch.randint(len(written), (1,), generator=numbers)]
        sources[row, newest] = row
    # Padding: of the past, and the newest itself. Row 1 takes its own past.
    sources[2, 1] = sources[4, NEWEST[4]] = -1
    sources[1] = 1
    return projected, cache, NEWEST, sources


def image_attention(dtype, rows=90, heads=3, length=70, width=12, crops=4):
    """Return arguments: tiles of rows of several crops, and crop 2 of nobody."""
    numbers = torch.Generator().manual_seed(rows)
    queries = torch.randn(rows, heads, width, generator=numbers).to(dtype)
    cache = torch.randn(2, crops, heads, length, width, generator=numbers).to(dtype)
    cache[:, 2] = torch.nan
    crop_of = torch.tensor([0, 1, 3])[torch.randint(3, (rows,), generator=numbers)]
    return queries, cache, crop_of, crop_of.argsort(stable=True)


def norm(dtype, rows=7, width=24):
    numbers = torch.Generator().manual_seed(rows)
    shapes = [(rows, width), (width,), (width,), (width,)]
    x, shift, *rest = (torch.randn(*shape, generator=numbers).to(dtype) for shape in shapes)
    return x, shift.to(torch.promote_types(dtype, torch.float32)), *rest, 1e-5


def compared(dtype):
    """Return the largest differences, and whether what must be equal bit for bit is."""
    projected, cache, position, sources = attention(dtype)
    written, alone = cache.clone(), cache[:, 1:2].clone()
    expected = row_kernels.attend_newest(projected, written, position, sources)
    found = triton_kernels.attend_newest(projected, cache, position, sources)
    one = triton_kernels.attend_newest(projected[1:2].clone(), alone, position[1:2], torch.zeros_like(sources[:1]))
    queries, image, crops, by_crop = image_attention(dtype)
    under = triton_kernels.attend_image(queries, image, crops, by_crop)
    elsewhere = torch.randperm(len(queries), generator=torch.Generator().manual_seed(1))
    moved = crops[elsewhere]
    permuted = triton_kernels.attend_image(queries[elsewhere], image, moved, moved.argsort(stable=True))
    single = triton_kernels.attend_image(queries[5:6].clone(), image, crops[5:6].clone(), torch.tensor([0]))
    x, *rest = norm(dtype)
    normed = triton_kernels.shifted_norm(x, *rest)
    return {
        "attention": difference(found, expected),
        "image attention": difference(under, row_kernels.attend_image(queries, image, crops, by_crop)),
        "norm": difference(normed, row_kernels.shifted_norm(x, *rest)),
        "is written": torch.equal(cache[:, torch.arange(len(NEWEST)), :, NEWEST], projected[:, 1:]),
        "writes nothing else": torch.equal(cache.nan_to_num(), written.nan_to_num()),
        "attention of a row alone": torch.equal(found[1:2], one),
        "image attention of a row alone": torch.equal(under[5:6], single),
        "image attention of rows elsewhere": torch.equal(under[elsewhere], permuted),
        "norm of a row alone": torch.equal(triton_kernels.shifted_norm(x[1:2].clone(), *rest), normed[1:2]),
    }


def multiply(builder, one, other, *rest):
    """Multiply bfloat16, which the interpreter takes for integers."""
    given = [
        interpreter.TensorHandle((each.data.astype(np.uint32) << 16).view(np.float32), language.float32)
        if each.dtype.scalar == language.bfloat16
        else each
        for each in (one, other)
    ]
    return create_dot(builder, *given, *rest)


create_dot = interpreter.InterpreterBuilder.create_dot
interpreter.InterpreterBuilder.create_dot = multiply


def difference(one, other):
    return float((one - other).abs().max())


if __name__ == "__main__":
    dtypes = (torch.float64, torch.float32, torch.bfloat16)
    json.dump({str(dtype).removeprefix("torch."): compared(dtype) for dtype in dtypes}, sys.stdout)
