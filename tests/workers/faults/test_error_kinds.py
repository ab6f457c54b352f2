"""Who is blamed for an error: the image in work, or the machine."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from pseudoris.schemas.errors import ConfigError, ImageError, TransientError
from pseudoris.workers.faults.error_kinds import is_broken_device, is_out_of_memory, may_blame_image

MEMORY = (
    MemoryError("host"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
)
DEVICE = (torch.AcceleratorError("illegal access"), RuntimeError("CUDA error: misaligned address"))
ELSEWHERE = (OSError("disk"), TransientError("bucket"), ConfigError("setting"), ImageError("corrupt", "torn"))
IMAGE = (ValueError("odd"), RuntimeError("shapes differ"), ZeroDivisionError("no area"))


def compiler_error() -> Exception:
    return type("InductorError", (RuntimeError,), {"__module__": "torch._inductor.exc"})("no gcc")


@pytest.mark.parametrize("error", [*MEMORY, *DEVICE, *ELSEWHERE, compiler_error()], ids=repr)
def test_what_the_machine_or_the_project_raises_blames_no_image(error):
    assert not may_blame_image(error)


@pytest.mark.parametrize("error", IMAGE, ids=repr)
def test_anything_else_that_a_stage_raises_may_be_the_image_s_fault(error):
    assert may_blame_image(error)
    assert not is_out_of_memory(error)
    assert not is_broken_device(error)


def test_memory_and_device_are_told_apart():
    assert [(is_out_of_memory(error), is_broken_device(error)) for error in MEMORY] == [(True, False)] * 3
    assert [(is_out_of_memory(error), is_broken_device(error)) for error in DEVICE] == [(False, True)] * 2


@pytest.mark.parametrize("allocate", [torch.empty, np.empty])
def test_memory_that_torch_or_numpy_cannot_get_is_known_as_such(allocate):
    with pytest.raises((RuntimeError, MemoryError)) as raised:
        allocate(10**15)
    assert is_out_of_memory(raised.value)


def test_errors_are_told_apart_where_torch_is_not_loaded():
    code = (
        "import sys; from pseudoris.workers.faults.error_kinds import is_broken_device, is_out_of_memory\n"
        "print(is_out_of_memory(MemoryError()), is_broken_device(ValueError('x')), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False", "False"]
