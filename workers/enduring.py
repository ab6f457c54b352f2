"""Stages that go on as the fault table says: what is an image's fault costs that image, all else never does."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import torch

from schemas.config import RunConfig
from schemas.errors import BrokenDeviceError, ConfigError, TransientError
from schemas.shard import Failure, Shard, ShardImage
from workers import protocols
from workers.boundary import is_broken_device, is_out_of_memory
from workers.isolation import ChildDiedError, ChildOutOfMemoryError, IsolatedStages, quarantine_killers, tried_alone
from workers.stages import Stage, StageKind, kinds_of

logger = logging.getLogger(__name__)

# Deaths of its process after which a shard is searched for an image that causes them.
DEATHS_BEFORE_SEARCH: Final = 2

# By stage, the settings that bound its memory, each with the least that it can be.
_TILES: Final[Mapping[str, Mapping[str, int]]] = {
    protocols.STAGE_PROPOSE: {"points_per_batch": 1},
    protocols.STAGE_CAPTION: {"cache_bytes": 2**20, "crops_together": 1},
    protocols.STAGE_FILTER: {"batch_size": 1},
}


class EnduringStages:
    """The stages of one process, models loaded once, with a child process at hand for what goes wrong.

    - An image on which a stage raises gets a second try in a fresh process, and is quarantined there or saved.
    - A shard that has ended processes is searched, image by image in a child, for the one that does so.
    - Memory that ran out: caches are dropped, and the same tiles run once more in a fresh process; then the run
      stops, or the tiles are halved under `placement.allow_degraded`.
    """

    def __init__(self, names: tuple[str, ...], config: RunConfig) -> None:
        """Load the models of `names`, in stage order. Raises: ConfigError: one cannot be loaded."""
        self._config = config
        self._kinds = kinds_of(names)
        self._stages: list[Stage] = [kind.build(config) for kind in self._kinds]

    def __call__(self, shard: Shard, *, num_deaths: int = 0) -> Shard:
        """Return the shard after every stage.

        Args:
            shard: In plan order.
            num_deaths: How often a process has died with this shard, on a machine that lives.

        Raises:
            ConfigError: A setting asks for more memory than there is.
            TransientError: Something outside the shard failed.
        """
        if num_deaths >= DEATHS_BEFORE_SEARCH:
            shard = self._without_killers(shard)
        for kind, stage in zip(self._kinds, self._stages, strict=True):
            shard = self._worked(kind, stage, shard)
        return shard

    def _without_killers(self, shard: Shard) -> Shard:
        logger.warning("shard %d has ended processes: its images go through a child one by one", shard.shard)
        names = tuple(kind.name for kind in self._kinds)
        _drop_caches()
        try:
            with IsolatedStages(names, self._config) as child:
                return quarantine_killers(shard, child)
        except (ChildOutOfMemoryError, BrokenDeviceError) as error:
            # Never an image's fault: the shard runs as a whole, and what it then runs into is told by that.
            logger.warning("the search ended without a result: %s", error)
            return shard

    def _worked(self, kind: StageKind, stage: Stage, shard: Shard) -> Shard:
        try:
            done = stage(shard)
        except Exception as error:
            if is_broken_device(error):
                raise BrokenDeviceError(f"the accelerator failed in stage {kind.name}: {error}") from error
            if not is_out_of_memory(error):
                raise
            logger.warning("stage %s ran out of memory on shard %d: %s", kind.name, shard.shard, error)
            done = None
        # Outside the handler: the error's frames would hold the memory that is missing.
        if done is None:
            done = self._worked_with_less(kind, shard)
        return self._with_second_tries(kind, shard, done)

    def _worked_with_less(self, kind: StageKind, shard: Shard) -> Shard:
        _drop_caches()
        config, lowered = self._config, dict[str, int]()
        while True:
            try:
                with IsolatedStages((kind.name,), config) as child:
                    return replace(child(shard), degraded={**shard.degraded, **lowered})
            except ChildDiedError as death:
                raise TransientError(f"{death} on shard {shard.shard}, where memory had run out before") from death
            except ChildOutOfMemoryError as error:
                halved = _halved(config, kind)
                if not self._config.placement.allow_degraded or not halved:
                    raise ConfigError(_memory_message(kind, shard, config, can_halve=bool(halved))) from error
            lowered |= {f"{kind.section}.{name}": value for name, value in halved.items()}
            section = kind.settings(config).model_copy(update=halved)
            config = config.model_copy(update={kind.section: section})
            logger.warning("shard %d goes on with %s", shard.shard, lowered)

    def _with_second_tries(self, kind: StageKind, before: Shard, after: Shard) -> Shard:
        raised = [image for image in after.images if image.failure and _is_raise_of(image.failure, kind)]
        if not raised:
            return after
        started = time.perf_counter()
        originals = {image.position: image for image in before.images}
        again: dict[int, ShardImage] = {}
        # The child holds a model of its own, beside those of this process.
        _drop_caches()
        try:
            with IsolatedStages((kind.name,), self._config) as child:
                for image in raised:
                    again[image.position] = tried_alone(before, originals[image.position], child)
        except ChildOutOfMemoryError as error:
            # No room for another process: what stands is that it raised here, twice.
            logger.warning("no second try in a fresh process for want of memory: %s", error)
        images = tuple(again.get(image.position, image) for image in after.images)
        return after.with_images(images).with_seconds(kind.name, time.perf_counter() - started)


def _is_raise_of(failure: Failure, kind: StageKind) -> bool:
    return (failure.stage, failure.reason) == (kind.name, "stage_error")


def _halved(config: RunConfig, kind: StageKind) -> dict[str, Any]:
    """Return the stage's tile settings halved; nothing where all are as small as can be."""
    settings = kind.settings(config)
    now = {name: (getattr(settings, name), least) for name, least in _TILES[kind.name].items()}
    return {name: max(value // 2, least) for name, (value, least) in now.items() if value > least}


def _memory_message(kind: StageKind, shard: Shard, config: RunConfig, *, can_halve: bool) -> str:
    settings = kind.settings(config)
    tiles = ", ".join(f"{kind.section}.{name} (now {getattr(settings, name)})" for name in _TILES[kind.name])
    remedy = " (they are part of a run's identity), or pass --allow-degraded" if can_halve else ""
    return (
        f"the {kind.name} stage ran out of memory on shard {shard.shard}, and again in a fresh process: give its actor "
        f"more memory, or lower {tiles} in a new run{remedy}"
    )


def _drop_caches() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
