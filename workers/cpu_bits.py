"""Names a CPU by the bits that torch computes on it: two that round otherwise have other names.

`stages.device_kind` calls it where models are loaded. A driver, which loads no torch, runs it as a child:
`python -m pseudoris.workers.cpu_bits PRECISION` prints the name. MKL and oneDNN choose kernels by the model of a CPU
and by variables of the environment. MKL does not tell which it chose, so only bits show it.
"""

from __future__ import annotations

import hashlib
import math
import platform
import sys
from collections.abc import Iterator
from functools import cache
from itertools import product

import torch


@cache
def cpu_kind(precision: str) -> str:
    """Return architecture, vector capability, and a digest of what is computed in float32 and in `precision`."""
    num_threads, whole = torch.get_num_threads(), hashlib.sha256()
    torch.set_num_threads(1)  # More would change sums, and how they are split depends on the cores.
    try:
        with torch.inference_mode():
            for values in _computed(getattr(torch, precision)):
                whole.update(values.contiguous().float().numpy().tobytes())
    finally:
        torch.set_num_threads(num_threads)
    return f"cpu {platform.machine()} {torch.backends.cpu.get_cpu_capability()} bits {whole.hexdigest()[:16]}"


def _computed(dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """Yield what kernels of models compute: in float32, and sums of products in `dtype` too."""
    functional = torch.nn.functional
    # Kernels differ at the edges of their blocks, and in long sums. Source: measured, AMD Zen 4, MKL 2024.2:
    # `MKL_CBWR=AVX2` changes 54 of 391 products of random sizes.
    for rows, terms, columns in product((1, 7, 64), (16, 77, 768, 3_072), (1, 5, 33, 128)):
        yield functional.linear(_fixed(rows, terms), _fixed(columns, terms), _fixed(columns))
    for channels, side, kernel, stride in ((3, 64, 16, 16), (3, 57, 7, 2), (16, 37, 3, 1), (64, 40, 3, 1)):
        image, weight = _fixed(1, channels, side, side), _fixed(24, channels, kernel, kernel)
        yield functional.conv2d(image.to(dtype), weight.to(dtype), stride=stride)
    for rows, columns in ((5, 7), (33, 65), (197, 197), (64, 1_031)):
        values, heads = _fixed(rows, columns) * 4, _fixed(1, 2, rows, 32)
        yield values.to(dtype) @ values.to(dtype).T
        yield from (values.softmax(-1), torch.erf(values), functional.gelu(values))
        yield functional.layer_norm(values, (columns,))
        yield functional.scaled_dot_product_attention(heads, heads * 2, heads)


def _fixed(*shape: int) -> torch.Tensor:
    """Return float32 in [-1, 1) that follow from integers alone, so that no generator's version decides them."""
    numbers = torch.arange(math.prod(shape)) * 40_503 % 65_521
    return ((numbers - 32_760).to(torch.float32) / 32_768).reshape(shape)


if __name__ == "__main__":
    print(cpu_kind(sys.argv[1]))
