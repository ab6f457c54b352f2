"""Names a CPU by the bits that torch computes on it: two that round otherwise have other names.

Called by `stages.device_kind` in processes that hold models. A driver, which loads no torch, runs it as a child:
`python -m pseudoris.workers.cpu_bits PRECISION` writes the name. Vector instructions alone do not decide the bits: MKL
and oneDNN choose kernels by the model of the CPU and by variables of the environment, and MKL tells of neither.
"""

from __future__ import annotations

import hashlib
import math
import platform
import sys
from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Final

import torch

from pseudoris.images.child_process import reserve_stdout

# Rows, terms of a sum, columns. Kernels differ at the edges of their blocks, and in long sums. Source: measured, AMD
# Zen 4, MKL 2024.2: `MKL_CBWR=AVX2` changes 54 of 391 products of random sizes.
_PRODUCTS: Final = tuple(product((1, 7, 64), (16, 77, 768, 3_072), (1, 5, 33, 128)))
# Channels in and out, side in pixels, side of the kernel, stride.
_CONVOLUTIONS: Final = ((3, 32, 64, 16, 16), (3, 24, 57, 7, 2), (16, 24, 37, 3, 1), (64, 64, 40, 3, 1))
_MATRICES: Final = ((5, 7), (33, 65), (197, 197), (64, 1_031))


@cache
def cpu_kind(precision: str) -> str:
    """Return architecture, vector capability and fingerprint of this process's CPU, as `compute.precision` computes.

    It is the same for any number of threads, which stays as it is.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = hashlib.sha256()
        with torch.inference_mode():
            for values in _computed(getattr(torch, precision)):
                whole.update(values.contiguous().float().numpy().tobytes())
    finally:
        torch.set_num_threads(num_threads)
    # `Identity.differences` knows this form. Importing it would make the driver wait.
    return f"cpu {platform.machine()} {torch.backends.cpu.get_cpu_capability()} bits {whole.hexdigest()[:16]}"


def _computed(dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """Yield what kernels of models compute: in float32, and sums of products in `dtype` too."""
    functional = torch.nn.functional
    for rows, terms, columns in _PRODUCTS:
        yield functional.linear(_fixed(rows, terms), _fixed(columns, terms), _fixed(columns))
    for channels, out, side, kernel, stride in _CONVOLUTIONS:
        image, weight = _fixed(1, channels, side, side), _fixed(out, channels, kernel, kernel)
        yield functional.conv2d(image.to(dtype), weight.to(dtype), stride=stride)
    for rows, columns in _MATRICES:
        values = _fixed(rows, columns) * 4
        yield values.to(dtype) @ values.to(dtype).T
        yield from (values.softmax(-1), torch.erf(values), functional.gelu(values))
        yield functional.layer_norm(values, (columns,))
        heads = _fixed(1, 2, rows, 32)
        yield functional.scaled_dot_product_attention(heads, heads * 2, heads)


def _fixed(*shape: int) -> torch.Tensor:
    """Return float32 in [-1, 1) that follow from integers alone, so no generator's version decides them."""
    numbers = torch.arange(math.prod(shape), dtype=torch.int64) * 40_503 % 65_521
    return ((numbers - 32_760).to(torch.float32) / 32_768).reshape(shape)


if __name__ == "__main__":
    _, answers = reserve_stdout()
    answers.write(cpu_kind(sys.argv[1]).encode())
    answers.close()
