"""The training loop of all learners, its settings, and their presets. For `chooser`, `ppt`, experiments, benchmarks.

A training that was killed at any step and resumed ends with equal weights. `decisive` has every setting that changes
them: a resume with another value is refused. Nothing is learnt from a loss or gradient that is not finite.
"""

from __future__ import annotations

import difflib
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, Protocol, Self

import torch
import yaml
from lightning_fabric import Fabric
from pydantic import Field, model_validator
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from pseudoris.primitives.counter_rng import key_of
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import WeightsConfig
from pseudoris.schemas.config_layers import lay_over, validate_as
from pseudoris.schemas.frozen import FrozenModel, NonNegative
from pseudoris.training.learning.checkpoint_folder import SUMMARY_NAME, ConfigT, TrainingFolder


class TowersConfig(FrozenModel):
    """The frozen CLIP; any of open_clip's with a ViT, as `filtering.architecture` and `filtering.weights`."""

    architecture: str
    weights: WeightsConfig
    # These blocks of the image tower are the stages of the fusion, in order: from 0, or from the last if negative.
    layers: tuple[int, ...] = Field(default=(1, 2, 4), min_length=1)


class TrainingConfig(FrozenModel):
    """Length, rates and devices. Only `device`, `num_devices` and the `_every` settings may change on a resume."""

    # The optimiser makes this many steps. A resume needs the same number, because the cosine ends at the last step.
    num_steps: int = Field(default=1000, ge=1)
    # adamw has decoupled decay and faster averages of gradients; adam is as Kingma and Ba published it.
    optimiser: Literal["adamw", "adam"] = "adamw"
    # After the warm-up, the rate falls to near 0 at the last step (cosine), or stays at the peak (constant).
    schedule: Literal["cosine", "constant"] = "cosine"
    peak_rate: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    # The rate rises linearly over this many steps. Without a warm-up AdamW's first steps are large in noisy directions.
    num_warmup_steps: int = Field(default=50, ge=0)
    weight_decay: NonNegative = 0.05
    # A gradient with a larger norm is scaled down to this: a mask of a few pixels can give many times the usual norm.
    max_gradient_norm: float = Field(default=1.0, gt=0)
    seed: int = Field(default=0, ge=0, lt=2**63)
    device: Literal["cpu", "cuda"] = "cpu"
    # One machine runs this many processes and averages their gradients (DDP).
    num_devices: int = Field(default=1, ge=1)
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    # On a CPU, each process has this many threads of torch. Another number of threads may round differently.
    num_threads: int = Field(default=1, ge=1)
    # A checkpoint is written after this many steps, which a crash may lose. It takes a fraction of a second.
    checkpoint_every: int = Field(default=200, ge=1)
    # The model is validated each time this many steps are done; 0 validates only at the end.
    validate_every: int = Field(default=0, ge=0)
    log_every: int = Field(default=20, ge=1)

    @model_validator(mode="after")
    def _warms_up_in_time(self) -> Self:
        if self.num_warmup_steps >= self.num_steps:
            raise ValueError(
                f"num_warmup_steps {self.num_warmup_steps} is not below num_steps {self.num_steps}. Lower "
                "num_warmup_steps."
            )
        if self.optimiser == "adam" and self.weight_decay:
            raise ValueError(
                f"weight_decay is {self.weight_decay}, but optimiser adam has no decay. Give "
                "weight_decay 0, or optimiser adamw."
            )
        return self

    def with_steps(self, num_steps: int) -> TrainingConfig:
        """Return the settings with another number of steps, at least 1, and no more warm-up than a tenth of them."""
        warmup = min(self.num_warmup_steps, num_steps // 10)
        return TrainingConfig.model_validate({**self.model_dump(), "num_steps": num_steps, "num_warmup_steps": warmup})

    def decisive(self) -> dict[str, object]:
        """Return the settings that decide the weights, as JSON: a resume must have the same."""
        placement = {"device", "num_devices", "checkpoint_every", "validate_every", "log_every"}
        return self.model_dump(mode="json", exclude=placement)


def load_preset(
    package: str, model: type[ConfigT], preset: str, path: Path | None = None, assignments: Sequence[str] = ()
) -> ConfigT:
    """Return a learner's resolved settings: `key=value` words over the YAML at `path` over the preset."""
    folder = resources.files(package) / "presets"
    known = sorted(each.name.removesuffix(".yaml") for each in folder.iterdir() if each.name.endswith(".yaml"))
    if preset not in known:
        near = difflib.get_close_matches(preset, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        learner = package.rpartition(".")[2]
        raise ConfigError(f"The {learner} has no preset {preset!r}. The presets are {', '.join(known)}{hint}")
    settings = yaml.safe_load((folder / f"{preset}.yaml").read_text(encoding="utf-8"))
    return validate_as(model, lay_over({"preset": preset, **settings}, path, assignments))


# The cosine ends at this share of the peak rate.
_LAST_SHARE = 0.02


class Learner(Protocol):
    """A method that learns: a module, its losses, and its validation."""

    @property
    def module(self) -> nn.Module:
        """What is trained. Parameters that need no gradient are neither optimised nor saved."""

    def losses(self, module: nn.Module, batch: Any) -> Mapping[str, torch.Tensor]:
        """Return `loss`, which is minimised, and other scalars, which are logged.

        Args:
            module: Call this one, not your own: it may be wrapped, for DDP and precision. Its input must not be a
                frozen dataclass, because Fabric replaces the tensors in it.
            batch: A batch of the feed, on the CPU. `loss` is a mean over its items, of which it has `len(batch)`.
        """

    def validate(self, module: nn.Module, fabric: Fabric) -> Mapping[str, float]:
        """Return figures of held-out data; called on every rank, in eval mode, without gradients."""


class Feed(Protocol):
    """Batches by number: batch n is always the same, after a resume too."""

    def batches(self, first: int) -> Iterator[Any]:
        """Yield batch `first`, `first` + 1, … of this rank, without end."""


def rate_at(step: int, config: TrainingConfig) -> float:
    """Return the learning rate of a step, from 0: linear warm-up, then the peak, or a cosine down to 2 % of it."""
    if step < config.num_warmup_steps:
        return config.peak_rate * (step + 1) / config.num_warmup_steps
    if config.schedule == "constant":
        return config.peak_rate
    share = (step - config.num_warmup_steps) / max(config.num_steps - config.num_warmup_steps, 1)
    return config.peak_rate * (_LAST_SHARE + (1 - _LAST_SHARE) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))))


def make_optimiser(module: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Return the optimiser of the parameters that need a gradient; those of one dimension do not decay."""
    parameters = [each for each in module.parameters() if each.requires_grad]
    if config.optimiser == "adam":
        # This is Adam as published: without weight decay, and with its authors' averages of gradients.
        return torch.optim.Adam(parameters, lr=config.peak_rate)
    groups = [
        {"params": [each for each in parameters if each.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [each for each in parameters if each.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.peak_rate, betas=(0.9, 0.98), eps=1e-6)


@dataclass(frozen=True, slots=True)
class StepReport:
    """The state of a training after a step: means of the losses since the last report, or a validation's figures."""

    step: int
    num_steps: int
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class FitSummary:
    """How a training ended: its last figures, steps in all and of this call, its time; `circularity` is said first.

    `num_cut_texts` counts the different texts that this call read, in any of its processes, and that were longer than
    `context_length` tokens; both are 0 for a learner that cuts none.
    """

    figures: Mapping[str, float]
    num_steps: int
    num_steps_now: int
    wall_s: float
    validation_s: float
    num_parameters: int
    circularity: Sequence[str] = ()
    num_cut_texts: int = 0
    context_length: int = 0


def open_fabric(config: TrainingConfig) -> Fabric:
    """Return the launched processes of a training: this program is started again for each further process."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "training.device=cuda, but torch sees no GPU. Fix the driver, or give --set training.device=cpu."
        )
    torch.set_num_threads(config.num_threads)
    # cuDNN must be deterministic, because a resumed training must equal an uninterrupted one, also on a GPU.
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    fabric = Fabric(
        accelerator=config.device,
        devices=config.num_devices,
        strategy="ddp" if config.num_devices > 1 else "auto",
        precision=config.precision,
    )
    fabric.launch()
    return fabric


@dataclass
class Trainer:
    """Trains a learner in a folder.

    `settings` is what the checkpoint records about itself, as JSON: enough to build the module again. `on_step` is
    called every `log_every` steps and after each validation, on the first process alone. `begin_with` is a checkpoint
    of an earlier training to start from; `steps_before` are its steps: curves continue there, drop-out draws differ.
    `cut_texts` grows while this process reads texts: those that were longer than `context_length` tokens.
    """

    fabric: Fabric
    config: TrainingConfig
    folder: TrainingFolder
    settings: str
    on_step: Callable[[StepReport], None] = lambda report: None
    begin_with: Mapping[str, Any] | None = None
    steps_before: int = 0
    circularity: Sequence[str] = ()
    cut_texts: Set[str] = frozenset()
    context_length: int = 0
    _validation_s: float = field(default=0.0, init=False)
    _writer: SummaryWriter | None = field(default=None, init=False)

    def fit(self, learner: Learner, feed: Feed) -> FitSummary:
        """Train to the last step from the folder's checkpoint, or from the beginning where there is none."""
        started = time.monotonic()
        # The module is moved first, because the optimiser's restored state goes to the device of the parameters.
        learner.module.to(self.fabric.device)
        optimiser = make_optimiser(learner.module, self.config)
        first = self._restore(learner.module, optimiser)
        module, wrapped = self.fabric.setup(learner.module, optimiser)
        if self.fabric.is_global_zero:
            # `purge_step` drops the logs of steps that will be done again.
            self._writer = SummaryWriter(str(self.folder.path), purge_step=self.steps_before + first)
        try:
            self._run(learner, feed, module, wrapped, first)
            figures = self._validate(learner, module, self.config.num_steps)
        finally:
            if self._writer is not None:
                self._writer.close()
        summary = FitSummary(
            figures=figures,
            num_steps=self.config.num_steps,
            num_steps_now=self.config.num_steps - first,
            wall_s=time.monotonic() - started,
            validation_s=self._validation_s,
            num_parameters=sum(each.numel() for each in learner.module.parameters() if each.requires_grad),
            circularity=self.circularity,
            num_cut_texts=len(_of_all_processes(self.cut_texts, self.fabric)),
            context_length=self.context_length,
        )
        if self.fabric.is_global_zero:
            self.folder.write_json(SUMMARY_NAME, {name: getattr(summary, name) for name in summary.__slots__})
        return summary

    def _restore(self, module: nn.Module, optimiser: torch.optim.Optimizer) -> int:
        """Load the checkpoint to go on from; return the first step. Its copy of the weights is released."""
        own = self.folder.load()
        state = self.begin_with if own is None else own
        if state is None:
            return 0
        load_trained(module, state["module"], where=str(self.folder.path))
        optimiser.load_state_dict(state["optimiser"])
        return 0 if own is None else int(own["step"])

    def _run(self, learner: Learner, feed: Feed, module: nn.Module, optimiser: Any, first: int) -> None:
        config = self.config
        # Holds the losses since the last report, by name. Some steps lack some of the losses.
        seen: defaultdict[str, list[float]] = defaultdict(list)
        module.train()
        batches = feed.batches(first) if first < config.num_steps else iter(())
        for step, batch in zip(range(first, config.num_steps), batches, strict=False):
            for name, value in self._step(learner, module, optimiser, batch, step).items():
                seen[name].append(value)
            done = step + 1
            if self._writer is not None and (done % config.log_every == 0 or done == config.num_steps):
                self._log(done, {f"train/{name}": fmean(values) for name, values in seen.items()})
                seen.clear()
                self._writer.add_scalar("train/rate", rate_at(step, config), self.steps_before + done)
            if done % config.checkpoint_every == 0 or done == config.num_steps:
                state = {"step": done, "module": trained_state(learner.module), "optimiser": optimiser.state_dict()}
                if self.fabric.is_global_zero:
                    self.folder.save({**state, "settings": self.settings})
            if config.validate_every and done % config.validate_every == 0 and done < config.num_steps:
                self._validate(learner, module, done)

    def _step(self, learner: Learner, module: nn.Module, optimiser: Any, batch: Any, step: int) -> dict[str, float]:
        # Drop-out is seeded with the step's number, so that a resumed training draws the same.
        torch.manual_seed(key_of("step", self.config.seed, self.steps_before + step, self.fabric.global_rank))
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step, self.config)
        optimiser.zero_grad(set_to_none=True)
        losses = learner.losses(module, batch)
        # All values are read at once, so that the CPU waits only once for the GPU.
        read = torch.stack([value.detach().double() for value in losses.values()]).tolist()
        values = dict(zip(losses, read, strict=True))
        loss, value = losses["loss"], values["loss"]
        if self.fabric.world_size > 1:
            # DDP's mean over ranks becomes the mean over all items, however they are shared out. All ranks end together
            # on a loss that is not finite. Otherwise some would wait for the gradients of a rank that ended.
            own = torch.tensor([float(len(batch)), float(not math.isfinite(value))], device=self.fabric.device)
            total, num_lost = torch.as_tensor(self.fabric.all_reduce(own, reduce_op="sum")).tolist()
            loss, value = loss * (len(batch) * self.fabric.world_size / max(total, 1)), math.nan if num_lost else value
        self._require_finite(value, "the loss", step)
        self.fabric.backward(loss)
        # The norm is checked here, because the error of Fabric's own check names no setting.
        limit = self.config.max_gradient_norm
        norm = self.fabric.clip_gradients(module, optimiser, max_norm=limit, error_if_nonfinite=False)
        self._require_finite(0.0 if norm is None else float(norm), "the gradient norm", step)
        optimiser.step()
        return values

    def _require_finite(self, value: float, noun: str, step: int) -> None:
        # A weight that is NaN stays NaN, and no resume could recover, so the training ends here.
        if not math.isfinite(value):
            raise ConfigError(
                f"{noun} of step {step} is {value}. Lower training.peak_rate={self.config.peak_rate}, and train "
                "again in another --out."
            )

    def _validate(self, learner: Learner, module: nn.Module, done: int) -> Mapping[str, float]:
        started = time.monotonic()
        module.eval()
        with torch.no_grad():
            figures = learner.validate(module, self.fabric)
        module.train()
        self._validation_s += time.monotonic() - started
        self._log(done, {f"val/{name}": value for name, value in figures.items()})
        return figures

    def _log(self, done: int, values: Mapping[str, float]) -> None:
        if self._writer is None:
            return
        for name, value in values.items():
            self._writer.add_scalar(name, value, self.steps_before + done)
        self.on_step(StepReport(done, self.config.num_steps, values))


def trained_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the trained state of a module by name: parameters that need a gradient, and buffers."""
    frozen = {name for name, each in module.named_parameters() if not each.requires_grad}
    return {name: value for name, value in module.state_dict().items() if name not in frozen}


def _of_all_processes(own: Set[str], fabric: Fabric) -> Set[str]:
    """Return the texts that any process holds; every process makes this call."""
    found: list[Set[str]] = [own] * fabric.world_size
    if fabric.world_size > 1:
        torch.distributed.all_gather_object(found, own)
    return set[str]().union(*found)


def begin_together(folder: TrainingFolder, settings: Mapping[str, Any], fabric: Fabric) -> None:
    """`TrainingFolder.begin` on the first process; every process makes this call."""
    # The first process begins the folder only after all processes have looked for an earlier training in it.
    fabric.barrier()
    if fabric.is_global_zero:
        folder.begin(settings)
    fabric.barrier()


def load_trained(module: nn.Module, state: Mapping[str, torch.Tensor], *, where: str) -> None:
    """Put what `trained_state` returned into a module."""
    own = trained_state(module)
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    other = [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    if missing or extra or other:
        raise ConfigError(
            f"The checkpoint in {where} belongs to another model: {len(missing)} tensors missing {missing[:3]}, "
            f"{len(extra)} unknown {extra[:3]}, {len(other)} of another shape {sorted(other)[:3]}. Give the "
            "settings that it was trained with, or another checkpoint."
        )
    module.load_state_dict(state, strict=False)
