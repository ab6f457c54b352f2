"""Triton's kernels against their plain definition: by its interpreter on a CPU, and compiled as for a GPU."""

import json
import os
import subprocess
import sys

import pytest

triton = pytest.importorskip("triton")
# The interpreter cuts off where bfloat16 is rounded.
TOLERANCES = {"float64": 1e-12, "float32": 1e-6, "bfloat16": 4e-2}


@pytest.fixture(scope="module")
def compared():
    command = [sys.executable, "-m", "tests.builders.interpreted_kernels"]
    ended = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES.items())
def test_kernels_give_and_write_what_the_definitions_do_and_no_row_depends_on_others(compared, dtype, tolerance):
    wrong = {
        name: found
        for name, found in compared[dtype].items()
        if not (found if isinstance(found, bool) else found <= tolerance)
    }
    assert wrong == {}


@pytest.mark.slow
@pytest.mark.parametrize(("held", "sums"), [("bf16", "fp32"), ("fp32", "fp32"), ("fp64", "fp64")])
def test_a_compiler_takes_them_for_a_gpu_that_this_machine_need_not_have(held, sums):
    from pseudoris.workers.captions import triton_kernels

    target = triton.backends.compiler.GPUTarget("cuda", 90, 32)
    attend = dict.fromkeys(("projected", "all_keys", "all_values", "mixed"), f"*{held}")
    attend |= {"position": "*i64", "sources": "*i32", "heads": "i32", "length": "i32", "width": "i32"}
    norm = dict.fromkeys(("x", "weight", "bias", "normed"), f"*{held}")
    norm |= {"shift": f"*{sums}", "width": "i32"}
    for kernel, signature, fixed in (
        (triton_kernels.attend_newest_kernel, attend, {"padded_length": 32, "padded_width": 64, "scale": 0.125}),
        (triton_kernels.shifted_norm_kernel, norm, {"padded_width": 1024, "eps": 1e-5}),
    ):
        fixed["sums"] = triton.language.dtype(sums)
        source = triton.compiler.ASTSource(kernel, signature | dict.fromkeys(fixed, "constexpr"), constexprs=fixed)
        assert triton.compile(source, target=target).asm["cubin"]
