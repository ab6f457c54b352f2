"""Compiled forward passes over a fixed set of shapes (`compute.is_compiled`).

A compiler makes one program a shape. Where the number of rows follows from the image, it is rounded up to one of a few
*buckets*, so that the programs are a few and soon all made; what is computed for the rows added is thrown away.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from schemas.errors import ConfigError

ModuleT = TypeVar("ModuleT", bound=nn.Module)

# Fewer rows than these take as long.
_LEAST_ROWS = 64
# Of one function: buckets up to millions of rows, for each kind of block.
_MAX_PROGRAMS = 128


def _set_up() -> None:
    """Make what is compiled follow from the shapes alone, whatever a process saw first.

    By default torch compiles eight shapes of a function and runs all others as they are: which eight would follow from
    the order of the work. And a kernel's form may be chosen by timing.

    Raises:
        ConfigError: This torch cannot be told not to.
    """
    # Here, because it takes as long to import as torch itself, and most processes compile nothing.
    import torch._dynamo
    import torch._inductor.config

    torch._dynamo.config.recompile_limit = _MAX_PROGRAMS
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    if not hasattr(torch._inductor.config, "deterministic"):
        raise ConfigError(
            f"compute.is_compiled=true, but torch {torch.__version__} chooses kernels by timing: install a later one, "
            "or --set compute.is_compiled=false"
        )
    torch._inductor.config.deterministic = True


def bucket(count: int) -> int:
    """Return the smallest number of rows that programs are made for and `count` fit in: 64, 96, 128, 192, 256, ..."""
    size = _LEAST_ROWS
    while size < count:
        size *= 2
    between = size * 3 // 4
    return between if count <= between and between > _LEAST_ROWS else size


def padded(rows: torch.Tensor, count: int) -> torch.Tensor:
    """Return rows (R, ...) with zeros behind them, (count, ...)."""
    missing = count - len(rows)
    return F.pad(rows, (0, 0) * (rows.dim() - 1) + (0, missing)) if missing else rows


def compile_rows(
    function: Callable[[ModuleT, torch.Tensor, torch.Tensor], torch.Tensor],
) -> Callable[[ModuleT, torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return `function`, a pure one of a module and of rows (P, D) twice, compiled for each bucket of rows.

    Modules of one kind and size share their programs: weights are arguments of these.
    """
    _set_up()
    program = torch.compile(function, dynamic=False)

    def run(module: ModuleT, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        count = bucket(len(x))
        result: torch.Tensor = program(module, padded(x, count), padded(other, count))
        return result[: len(x)]

    return run


def compile_tower(tower: nn.Module) -> None:
    """Compile a module's forward pass in place, a program for each shape that it is called with."""
    _set_up()
    tower.compile(dynamic=False)
