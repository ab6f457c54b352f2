"""A CPU is named by what it computes: variables change the name; starts and numbers of threads do not."""

from __future__ import annotations

import json
import re

import pytest
import torch

from pseudoris.schemas.config import ComputeConfig
from pseudoris.workers.cpu_bits import cpu_kind
from pseudoris.workers.stages import device_kind
from tests.builders.command import python_says

# Forks before anything is computed: in each child the libraries start anew, as in a process of its own.
IN_CHILDREN = """
import json, os, sys
import torch
from pseudoris.workers.cpu_bits import cpu_kind
for num_threads in json.loads(sys.argv[1]):
    if not (child := os.fork()):
        torch.set_num_threads(num_threads)
        sys.stdout.write(f"{cpu_kind('float32')}, {torch.get_num_threads()}\\n")
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(child, 0)
"""


def names_at(*num_threads: int, **variables: str) -> list[str]:
    return python_says(IN_CHILDREN, json.dumps(num_threads), **variables).splitlines()


@pytest.fixture(scope="module")
def here():
    return names_at(1)[0]


@pytest.mark.slow
@pytest.mark.long
def test_twenty_starts_on_one_to_eight_threads_name_it_alike_and_keep_their_threads(here):
    numbers = [1, 2, 8, *range(1, 9), *(1, 2, 8) * 3]
    assert len(numbers) == 20
    assert names_at(*numbers) == [here.replace(", 1", f", {number}") for number in numbers]


@pytest.mark.slow
@pytest.mark.parametrize(
    "variable",
    [
        {"ONEDNN_MAX_CPU_ISA": "AVX2"},
        {"MKL_CBWR": "AVX2"},
        pytest.param({"ATEN_CPU_CAPABILITY": "avx2"}, marks=pytest.mark.long),
    ],
    ids=str,
)
def test_a_variable_that_makes_a_library_round_otherwise_changes_it(here, variable):
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        pytest.skip("this CPU has no more than AVX2, so the variable changes nothing")
    assert names_at(1, **variable) != [here]


def test_the_kind_of_device_of_a_cpu_has_it_by_precision():
    kinds = [device_kind(ComputeConfig(device="cpu", precision=name)) for name in ("float32", "bfloat16")]
    assert kinds[0] == cpu_kind("float32") != kinds[1]
    assert re.fullmatch(r"cpu \S+ \S+ bits [0-9a-f]{16}", kinds[0])
