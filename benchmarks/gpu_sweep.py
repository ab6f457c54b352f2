"""Finds the settings under which a device is fastest, one after another, and writes them as YAML: `gpu --sweep`.

Tried are the sizes of batches and caches of each stage, each with those found before it, then compilation of all
stages, which must then still give what their references give. The preset's own value stays unless another one is
faster by more than measurements scatter. All of them change the last bits of results, so they are part of a run's
identity: choose before a run, not in its middle.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Final

import torch
import yaml
from torch._dynamo.exc import FailOnRecompileLimitHit

from benchmarks.gpu_agreement import check_compiled, sure_captioner
from benchmarks.gpu_report import Bench, Report
from benchmarks.mask_sides import Sides, scene_pixels, smooth_if_random
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.shard import Shard
from pseudoris.workers.device import compute_dtype, prepare_device
from pseudoris.workers.filtering import ClipScorer
from pseudoris.workers.forward_passes import compile_tower
from pseudoris.workers.masks.generator import MaskGenerator
from pseudoris.workers.masks.sam_model import PromptableSam, load_sam

Candidates = Mapping[str, Mapping[str, Sequence[int]]]

# For each stage the settings to try and their values. Of what a GPU of 16 to 140 GB holds.
CANDIDATES: Final[Candidates] = {
    "masks": {"masks.points_per_batch": (64, 256, 1024)},
    "captions": {
        "captions.cache_bytes": (2 * 2**30, 8 * 2**30, 32 * 2**30),
        "captions.crops_together": (1, 32, 128, 512),
    },
    "filter": {"filtering.batch_size": (64, 256, 1024)},
}
# Whether it runs.
LITTLE: Final[Candidates] = {
    "masks": {"masks.points_per_batch": (64,)},
    "captions": {"captions.crops_together": (64,)},
    "filter": {"filtering.batch_size": (32,)},
}
_COMPILED: Final = "compute.is_compiled"
# Share by which a value must be faster than the one before it.
_MIN_GAIN: Final = 0.03
_SHOWN_LETTERS: Final = 200
# What a device, a setting or the compiler cannot do, and results that are others.
_REFUSALS: Final = (ConfigError, RuntimeError, ValueError, FailOnRecompileLimitHit)


@dataclass(slots=True)
class Sweep:
    """The search on one preset.

    Attributes:
        preset: Its name.
        words: Assignments that hold throughout: device, precision, weights.
        bench: Times the stages.
        report: Gets a row for each value.
        shard: Images with masks; all stages work on it.
        kept_share: Of the mask candidates of random weights, those to pass predicted IoU.
        chosen: The settings so far, where they differ from the preset's.
    """

    preset: str
    words: Sequence[str]
    bench: Bench
    report: Report
    shard: Shard
    kept_share: float
    chosen: dict[str, Any] = field(default_factory=dict)
    _thresholds: dict[str, float] = field(default_factory=dict)
    _captioned: Shard | None = None

    def run(self, candidates: Candidates, *, has_compilation: bool) -> str:
        """Try the candidates; return the recommended settings as YAML, with what they gain as a comment."""
        before_s, after_s = 0.0, 0.0
        for stage, settings in candidates.items():
            first_s = best_s = self._seconds(stage, {})
            for key, values in settings.items():
                best_s = self._choose(stage, key, values, best_s)
            before_s, after_s = before_s + first_s, after_s + best_s
        if has_compilation:
            after_s = self._choose_compilation(list(candidates), after_s)
        num_images = len(self.shard.images)
        gain = (
            f"{after_s / num_images:.4g} s an image; {before_s / num_images:.4g} s with the settings of {self.preset}"
        )
        return self._yaml(gain)

    def _config(self, settings: Mapping[str, Any]) -> RunConfig:
        laid = [f"{key}={_word(value)}" for key, value in {**self.chosen, **settings}.items()]
        return load_config(self.preset, assignments=[*self.words, *laid])

    def _choose(self, stage: str, key: str, values: Sequence[int], best_s: float) -> float:
        """Keep the fastest value of a setting; return its seconds. `best_s` are those of the present value."""
        present: Any = reduce(getattr, key.split("."), self._config({}))
        for value in values:
            taken_s = best_s if value == present else self._seconds(stage, {key: value})
            if taken_s < (1 - _MIN_GAIN) * best_s:
                self.chosen[key], best_s = value, taken_s
        return best_s

    def _choose_compilation(self, stages: Sequence[str], before_s: float) -> float:
        """Keep compilation where all stages together are faster with it, and agree; return their seconds."""
        compiled_s = sum(self._seconds(stage, {_COMPILED: True}) for stage in stages)
        if compiled_s >= (1 - _MIN_GAIN) * before_s or not self._agrees_compiled():
            return before_s
        self.chosen[_COMPILED] = True
        return compiled_s

    def _agrees_compiled(self) -> bool:
        try:
            check_compiled(self._config({_COMPILED: True}))
        except _REFUSALS as error:
            self._tell(f"sweep, {self.preset}, {_COMPILED}=true", error)
            return False
        return True

    def _tell(self, case: str, error: Exception) -> None:
        print(f"{case}: {type(error).__name__}: {str(error)[:_SHOWN_LETTERS]}", flush=True)

    def _seconds(self, stage: str, settings: Mapping[str, Any]) -> float:
        """Return the seconds of a stage under the settings chosen so far and these; infinite where it does not run."""
        tried = ", ".join(f"{key}={_word(value)}" for key, value in settings.items()) or "settings so far"
        case = f"sweep, {self.preset}, {stage}, {tried}"
        try:
            work = self._work(stage, self._config(settings))
            started = time.perf_counter()
            work()
            note = f"images/s; first call {time.perf_counter() - started:.1f} s"
            row = self.bench.row(case, work, done=len(self.shard.images), baseline_s=None, note=note)
        except _REFUSALS as error:
            # Out of memory, or what the compiler cannot do: a value that is not to be recommended.
            self._tell(case, error)
            return float("inf")
        self.report.add(row)
        return row.ours_s

    def _work(self, stage: str, config: RunConfig) -> Callable[[], object]:
        if stage == "masks":
            return self._mask_work(config)
        if stage == "captions":
            caption = sure_captioner(config)
            return lambda: caption(self.shard)
        if self._captioned is None:
            self._captioned = sure_captioner(config)(self.shard)
        captioned, score = self._captioned, ClipScorer(config.filtering, config.compute)
        return lambda: score(captioned)

    def _mask_work(self, config: RunConfig) -> Callable[[], object]:
        """The generator, under thresholds that let a realistic share of the candidates of random weights pass."""
        if not self._thresholds:
            self._thresholds = Sides(config, num_images=1, kept_share=self.kept_share).thresholds
        sam = load_sam(config.masks.architecture, config.masks.weights).requires_grad_(False)
        sam = sam.to(prepare_device(config.compute))
        smooth_if_random(sam, config.masks.weights)
        if config.compute.is_compiled:
            compile_tower(sam.image_encoder)
        masks = config.masks.model_copy(update=self._thresholds)
        generate = MaskGenerator(PromptableSam(sam, dtype=compute_dtype(config.compute)), masks)
        images = scene_pixels(len(self.shard.images))
        return lambda: generate.together(images)

    def _yaml(self, gain: str) -> str:
        compute = self._config({}).compute
        settings = {"compute.device": compute.device, "compute.precision": compute.precision, **self.chosen}
        if compute.device == "cuda":
            settings["placement.fused.num_gpus"] = 1
        head = f"# For {self.bench.name}, torch {torch.__version__}, over the preset {self.preset}.\n# {gain}.\n"
        return head + yaml.safe_dump(nested(settings), sort_keys=True)


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by dotted keys as a tree."""
    tree: dict[str, Any] = {}
    for key, value in settings.items():
        *path, last = key.split(".")
        reduce(lambda branch, name: branch.setdefault(name, {}), path, tree)[last] = value
    return tree


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
