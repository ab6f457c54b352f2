"""Settings that all learners share, and their presets (YAML by the code). For `training`, experiments.

`decisive` has every setting that changes the weights: a resume with another value is refused.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, Field, model_validator

from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import WeightsConfig
from pseudoris.schemas.config_layers import lay_over, validate_as
from pseudoris.schemas.frozen import FrozenModel, NonNegative


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


ConfigT = TypeVar("ConfigT", bound=BaseModel)


def load_preset(
    package: str, model: type[ConfigT], preset: str, path: Path | None = None, assignments: Sequence[str] = ()
) -> ConfigT:
    """Return a learner's resolved settings: `key=value` words over the YAML at `path` over the preset."""
    folder = (resources.files(package) / "presets").iterdir()
    files = {each.name.removesuffix(".yaml"): each for each in folder if each.name.endswith(".yaml")}
    known = sorted(files)
    if preset not in known:
        near = difflib.get_close_matches(preset, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        learner = package.rpartition(".")[2]
        raise ConfigError(f"The {learner} has no preset {preset!r}. The presets are {', '.join(known)}{hint}")
    settings = yaml.safe_load(files[preset].read_text(encoding="utf-8"))
    return validate_as(model, lay_over({"preset": preset, **settings}, path, assignments))
