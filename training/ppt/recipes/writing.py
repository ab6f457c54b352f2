"""What the recipes have in common: their identity, and a run that is planned, made and finished."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from schemas.run import Identity
from store.location import RunLocation
from store.lock import RunLock
from training.ppt.recipes.config import RecipeConfig
from training.runs.planning import PlannedRun, package_versions
from training.runs.writing import MakeShard, OnProgress, WrittenRun, write_run
from workers.checkpoints.weights import weights_digest
from workers.device import device_kind

# What reads, draws and writes, and what computes: another version may give other bytes.
_PACKAGES: Final = ("pseudoris", "pyarrow", "pillow", "numpy", "pycocotools")
_MODEL_PACKAGES: Final = ("torch", "torchvision", "open_clip_torch", "segment-anything")
_SECTIONS: Final = ("images", "shards")
ORIGIN: Final = "ppt"


@dataclass(frozen=True, slots=True)
class Recipe:
    """One recipe on its way into a run.

    Attributes:
        name: `objects`, `compose` or `pairs`; `prior` of its masks.
        config: Everything it is told.
        settings: Of `config`, and of its input, what decides the tables' bytes, as JSON.
        has_models: Whether CLIP and SAM are read.
    """

    name: str
    config: RecipeConfig
    settings: Mapping[str, Any]
    has_models: bool

    def identity(self) -> Identity:
        """Return what must be equal for two calls to belong to one run.

        Raises:
            ConfigError: Weights are missing, or not the expected ones.
        """
        run = self.config.run
        sections = (*_SECTIONS, "compute") if self.has_models else _SECTIONS
        method: dict[str, Any] = {name: getattr(run, name).model_dump(mode="json") for name in sections}
        method |= {"recipe": self.name, self.name: dict(self.settings)}
        if not self.has_models:
            return Identity(method=method, weights={}, device_kind="none", versions=package_versions(_PACKAGES))
        method |= {
            "grounding": self.config.grounding.model_dump(mode="json"),
            "clip": run.filtering.architecture,
            "sam": run.masks.architecture.model_dump(mode="json"),
        }
        weights = {"clip": weights_digest(run.filtering.weights), "sam": weights_digest(run.masks.weights)}
        versions = package_versions((*_PACKAGES, *_MODEL_PACKAGES))
        return Identity(method=method, weights=weights, device_kind=device_kind(run.compute), versions=versions)


def write_recipe(
    recipe: Recipe,
    location: RunLocation,
    plan: Callable[[Identity], PlannedRun],
    maker: Callable[[PlannedRun], MakeShard],
    *,
    on_progress: OnProgress,
    on_wait: Callable[[str], None],
) -> WrittenRun:
    """Plan and make what is missing of a recipe's run, one shard after the other: a model has one device.

    Args:
        recipe: What is made.
        location: Of a new run, or of one that the same recipe began.
        plan: Plans, under the lock.
        maker: Returns what makes a shard; called once, behind the plan, so that a refusal costs no loading.
        on_progress: Told after each commit.
        on_wait: Told who holds the run, before a wait.

    Raises:
        ConfigError: The user must mend something; or the run there is another one.
        TransientError: Storage failed; the same call continues.
    """
    identity = recipe.identity()
    location.probe()
    with RunLock.held(location, on_wait=on_wait) as lock:
        planned = plan(identity)
        return write_run(location, planned, maker(planned), lock=lock, on_progress=on_progress)
