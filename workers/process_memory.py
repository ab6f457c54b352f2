"""Environment of processes that hold models: on a CPU they reuse freed memory, on a GPU sums are repeatable.

Called by `pipeline/executor.py`, `evidence/recipes/child_environment.py` and benchmarks. It must be set before a
process starts: glibc and cuBLAS read it then.
"""

from __future__ import annotations

from typing import Final

from pseudoris.schemas.config import ComputeConfig

# Without it cuBLAS may use workspaces of several streams, and sums would differ between runs.
_CUDA_ENVIRONMENT: Final = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
MEMORY_ENVIRONMENT: Final = {
    # glibc reads these when a process starts. It then keeps freed memory: without, half of SAM's time on a CPU can be
    # page faults of new temporaries. Source: measured, `tiny`, three scenes: 99,712 faults become 9,903, seconds in the
    # kernel 0.26 become 0.03, resident memory 1,061 MB becomes 1,099; a step of SAM's training becomes a fifth shorter.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(30 * 10**9),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
    # oneDNN, and torch's binding to it, each keep a kernel a shape, 1,024 of them by default. The captioner's products
    # have always new numbers of rows. Source: measured, captions of `tiny`, 12 shards of 16 scenes: 1,032 MB and
    # growing become 740 and flat; with 64 kernels 690, and 2 % slower.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
    "LRU_CACHE_CAPACITY": "128",
}


def actor_environment(compute: ComputeConfig) -> dict[str, str]:
    """Return the environment variables of a process that holds models; set before its libraries load."""
    threads = str(compute.threads)
    environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    return environment | (_CUDA_ENVIRONMENT if compute.device == "cuda" else MEMORY_ENVIRONMENT)
