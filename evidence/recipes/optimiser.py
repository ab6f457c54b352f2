"""The loop of all trainings here: optimiser, schedule, half precision, progress; a checkpoint goes on as unbroken."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

logger = logging.getLogger(__name__)


@contextmanager
def fast_cpu_arithmetic() -> Iterator[None]:
    """Autocast to bfloat16 where the CPU has it, with math attention: at these sizes twice as fast as flash (measured).

    A CPU without native bfloat16 takes five times as long for it as for float32 (measured).
    """
    has_bfloat16 = bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
    with (
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=has_bfloat16),
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        yield


@dataclass
class Optimiser:
    """AdamW with linear warm-up and a cosine to zero over `steps`; weights of one dimension do not decay."""

    module: nn.Module
    steps: int
    peak_rate: float
    warmup_steps: int = 100
    weight_decay: float = 0.05
    max_gradient_norm: float = 1.0
    adam: torch.optim.AdamW = field(init=False)

    def __post_init__(self) -> None:
        """Groups the parameters."""
        parameters = [p for p in self.module.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.adam = torch.optim.AdamW(groups, lr=self.peak_rate, betas=(0.9, 0.98), eps=1e-6)

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        if step < self.warmup_steps:
            return self.peak_rate * (step + 1) / self.warmup_steps
        share = (step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
        return self.peak_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))))

    def step(self, step: int, loss: torch.Tensor) -> None:
        """Applies one gradient."""
        for group in self.adam.param_groups:
            group["lr"] = self.rate(step)
        self.adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.module.parameters(), self.max_gradient_norm)
        self.adam.step()


class Progress:
    """Logs running means of the losses every `every` steps, with the time that is left."""

    def __init__(self, name: str, steps: int, *, every: int = 50) -> None:
        self._name, self._steps, self._every = name, steps, every
        self._sums: dict[str, float] = {}
        self._count = 0
        self._started = time.monotonic()

    def add(self, step: int, **values: float) -> None:
        """Counts one step's values; logs when it is time."""
        for key, value in values.items():
            self._sums[key] = self._sums.get(key, 0.0) + value
        self._count += 1
        if (step + 1) % self._every == 0 or step + 1 == self._steps:
            spent = time.monotonic() - self._started
            left = spent / (step + 1) * (self._steps - step - 1)
            means = "  ".join(f"{key} {total / self._count:.4f}" for key, total in self._sums.items())
            logger.info("%s %d/%d  %s  (%.0f s, %.0f s left)", self._name, step + 1, self._steps, means, spent, left)
            self._sums, self._count = {}, 0


def save_checkpoint(path: Path, step: int, module: nn.Module, optimiser: Optimiser) -> None:
    """Writes a training checkpoint whole: a reader never sees half of one."""
    unfinished = path.with_suffix(".unfinished")
    torch.save({"step": step, "model": module.state_dict(), "adam": optimiser.adam.state_dict()}, unfinished)
    unfinished.rename(path)


def restore_checkpoint(path: Path, module: nn.Module, optimiser: Optimiser) -> int:
    """Load a checkpoint if there is one; return the next step."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    module.load_state_dict(state["model"])
    optimiser.adam.load_state_dict(state["adam"])
    logger.info("%s: continuing at step %d", path.name, state["step"])
    return int(state["step"])


def load_module(path: Path, module: nn.Module) -> None:
    """Load the weights of an earlier phase's checkpoint."""
    module.load_state_dict(torch.load(path, weights_only=True)["model"])


@dataclass(frozen=True)
class Recipe:
    """The numbers that every training has."""

    steps: int
    peak_rate: float
    checkpoint_every: int


def fit(
    name: str,
    module: nn.Module,
    recipe: Recipe,
    checkpoint: Path,
    losses: Callable[[int], tuple[torch.Tensor, dict[str, torch.Tensor]]],
    *,
    warmup_steps: int = 100,
) -> None:
    """Train a module, from its checkpoint on if there is one; `losses` gives a step's loss, and parts to log."""
    optimiser = Optimiser(module, recipe.steps, recipe.peak_rate, warmup_steps)
    first = restore_checkpoint(checkpoint, module, optimiser)
    progress = Progress(name, recipe.steps)
    for step in range(first, recipe.steps):
        loss, parts = losses(step)
        optimiser.step(step, loss)
        progress.add(step, **{part: value.item() for part, value in parts.items()})
        if (step + 1) % recipe.checkpoint_every == 0 or step + 1 == recipe.steps:
            save_checkpoint(checkpoint, step + 1, module, optimiser)
