"""Compiled forward passes for a fixed set of shapes (`compute.is_compiled`).

A compiler makes one program per shape. Where the number of rows depends on the image, it is rounded up to one of a few
*buckets*, so that there are few programs, soon all compiled. Results for the added rows are dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from pseudoris.schemas.errors import ConfigError

ModuleT = TypeVar("ModuleT", bound=nn.Module)

# Smaller batches are not faster.
_LEAST_ROWS = 64
# Programs of one function: enough for buckets up to millions of rows, for each kind of block.
_MAX_PROGRAMS = 128


def _set_up() -> None:
    """Make the compiled programs depend on the shapes alone, not on the order in which a process sees them.

    By default torch compiles eight shapes of a function and runs all others uncompiled, so the order of the work would
    decide which eight. It may also choose kernels by timing.

    Raises:
        ConfigError: This torch has no setting against it.
    """
    # Imported here: it takes as long to import as torch itself, and most processes compile nothing.
    import torch._dynamo
    import torch._inductor.config

    torch._dynamo.config.recompile_limit = _MAX_PROGRAMS
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    if not hasattr(torch._inductor.config, "deterministic"):
        raise ConfigError(
            f"compute.is_compiled=true, but torch {torch.__version__} chooses kernels by timing: "
            "install a later version, or --set compute.is_compiled=false"
        )
    torch._inductor.config.deterministic = True


def bucket(count: int) -> int:
    """Return the smallest bucket that holds `count` rows: 64, 96, 128, 192, 256, ..."""
    size = _LEAST_ROWS
    while size < count:
        size *= 2
    between = size * 3 // 4
    return between if count <= between and between > _LEAST_ROWS else size


def padded(rows: torch.Tensor, count: int) -> torch.Tensor:
    """Return rows (R, ...) followed by zeros, (count, ...)."""
    missing = count - len(rows)
    return F.pad(rows, (0, 0) * (rows.dim() - 1) + (0, missing)) if missing else rows


def compile_rows(
    function: Callable[[ModuleT, torch.Tensor, torch.Tensor], torch.Tensor],
) -> Callable[[ModuleT, torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return `function` compiled for each bucket of rows; it must be pure and take a module and twice rows (P, D).

    Modules of one kind and size share programs, because the weights are arguments of a program.
    """
    _set_up()
    program = torch.compile(function, dynamic=False)

    def run(module: ModuleT, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        count = bucket(len(x))
        result: torch.Tensor = program(module, padded(x, count), padded(other, count))
        return result[: len(x)]

    return run


def compile_tower(tower: nn.Module) -> None:
    """Compile a module's forward pass in place: one program for each shape that it is called with."""
    _set_up()
    tower.compile(dynamic=False)
