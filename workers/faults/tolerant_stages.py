"""The stages of one process with the fault ladder of this folder. Called by `pipeline/executor.py`.

Image errors quarantine the image; other errors must not. A retry runs the same tiles, so its bytes are those of the
first try, unless `placement.allow_degraded` lets it halve them.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Final

from pseudoris.images.child_process import is_external_signal
from pseudoris.primitives.errors import BrokenDeviceError, ConfigError, NoSubprocessError, TransientError
from pseudoris.schemas.card_settings import crops_in_fixed_shapes, decoder_choices
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.shard import Failure, Shard, ShardImage
from pseudoris.workers import stages
from pseudoris.workers.crops.shard_pixels import held_pixels
from pseudoris.workers.faults.freed_memory import free_memory
from pseudoris.workers.faults.image_boundary import refuse_one_fault
from pseudoris.workers.faults.quarantine import (
    BAD_OUTPUT,
    STAGE_ERROR,
    is_broken_device,
    is_of_libraries,
    is_out_of_memory,
)
from pseudoris.workers.faults.subprocess_stages import ChildDiedError, ChildOutOfMemoryError, SubprocessStages
from pseudoris.workers.stages import Stage, StageKind, stages_named

logger = logging.getLogger(__name__)

KILLED: Final = "process_killed"
# If its process has died this many times, a shard is searched for the image that causes the deaths.
CRASHES_BEFORE_SEARCH: Final = 2
# If the child was killed from outside this many times with one image, the machine is to blame.
_MAX_EXTERNAL_SIGNALS: Final = 3

# These settings bound the memory of each stage. They may be lowered to the values here.
_TILES: Final[Mapping[str, Mapping[str, int]]] = {
    stages.STAGE_PROPOSE: {"points_per_batch": 1},
    stages.STAGE_CAPTION: {"cache_bytes": 2**20, "crops_together": 1},
    stages.STAGE_FILTER: {"batch_size": 1},
}
# In fixed shapes tiles are halved so often at most, in the first attempt that halves them.
_MAX_HALVINGS: Final = 2


class FaultTolerantStages:
    """The stages of one process, with models loaded once, and with subprocesses for what fails in it."""

    def __init__(self, names: tuple[str, ...], config: RunConfig) -> None:
        """Load the models of `names`, in stage order. Raises: ConfigError: A model cannot be loaded."""
        self._config = config
        self._kinds = stages_named(names)
        self._stages: list[Stage] = [kind.build(config) for kind in self._kinds]

    def __call__(self, shard: Shard, *, num_deaths: int = 0) -> Shard:
        """Return the shard after every stage.

        Args:
            shard: In plan order.
            num_deaths: How often a process died with this shard while its machine lived.

        Raises:
            ConfigError: A setting asks for more memory than there is.
            BrokenDeviceError, NoSubprocessError: This process cannot finish the shard; another one may.
            TransientError: Something outside the shard failed.
        """
        if num_deaths >= CRASHES_BEFORE_SEARCH:
            shard = self._without_crashing_images(shard)
        with held_pixels() if len(self._kinds) > 1 else nullcontext():
            for kind, stage in zip(self._kinds, self._stages, strict=True):
                shard = self._run(kind, stage, shard)
        return shard

    def _without_crashing_images(self, shard: Shard) -> Shard:
        logger.warning("Shard %d crashed its workers. Testing its images one by one in a subprocess.", shard.shard)
        names = tuple(kind.name for kind in self._kinds)
        free_memory()
        try:
            with SubprocessStages(names, self._config) as child:
                return quarantine_crashing_images(shard, child)
        except (NoSubprocessError, BrokenDeviceError) as error:
            # No image is to blame, so the whole shard runs as usual and reports its own errors.
            logger.warning("the test of single images ended without a result: %s", error)
            return shard

    def _run(self, kind: StageKind, stage: Stage, shard: Shard) -> Shard:
        lowered, done = _lowered(kind, shard), None
        try:
            # Of a shard that was computed with smaller tiles, only the same tiles give the bytes again.
            done = None if lowered else stage(shard)
        except Exception as error:
            if is_broken_device(error):
                raise BrokenDeviceError(f"the accelerator failed in stage {kind.name}: {error}") from error
            if is_out_of_memory(error):
                logger.warning("stage %s ran out of memory on shard %d: %s", kind.name, shard.shard, error)
            elif is_of_libraries(error):
                lowered = self._without_fixed_shapes(kind, stage, shard, error)
            else:
                raise
        # This runs after the except block, because inside it the error's frames keep memory in use.
        if done is None:
            done = self._run_with_less_memory(kind, shard, lowered)
        return self._retry_raised(kind, shard, done)

    def _without_fixed_shapes(self, kind: StageKind, stage: Stage, shard: Shard, error: Exception) -> dict[str, Any]:
        """Return the setting with which the stage can do without what failed; it gives other bits.

        Raises:
            TransientError: There is none.
            ConfigError: It needs `placement.allow_degraded`.
        """
        if self._decoder(kind) != "static":
            where = _images_that_raise_alone(stage, shard) or "here"
            raise TransientError(f"stage {kind.name} cannot be compiled or run {where}: {error}") from error
        if not self._config.placement.allow_degraded:
            raise ConfigError(
                f"captions in fixed shapes failed on shard {shard.shard} ({type(error).__name__}: {error}): set "
                "captions.decoder=tree in a new run, or pass --allow-degraded, by which the tree captions such shards"
            ) from error
        logger.warning("captions in fixed shapes failed on shard %d, the tree takes over: %s", shard.shard, error)
        return dict(decoder_choices("tree")["captions"])

    def _decoder(self, kind: StageKind) -> str:
        """Return the decoder of CoCa's captions, empty for other stages."""
        captions, compute = self._config.captions, self._config.compute
        if kind.name != stages.STAGE_CAPTION or captions.engine != "coca":
            return ""
        # Imported here, because most processes that import this module load no captioner.
        from pseudoris.workers.captions.decoder_choice import chosen_decoder

        return chosen_decoder(captions, compute, is_short=True)[0]

    def _run_with_less_memory(self, kind: StageKind, shard: Shard, halved: Mapping[str, Any]) -> Shard:
        free_memory()
        config, lowered = self._config, dict(shard.degraded)
        decoder = self._decoder(kind)
        is_static = halved.get("decoder") != "tree" and decoder == "static"
        if decoder:
            from pseudoris.workers.captions.decoder_choice import settings_of

            # What is halved, and named, is what this process computed with.
            config = config.model_copy(update={"captions": settings_of(decoder, config.captions, config.compute)})
        num_left = _MAX_HALVINGS if is_static else math.inf
        if is_static and f"{kind.section}.slots" in lowered:
            num_left = 0
        while True:
            lowered |= {f"{kind.section}.{name}": value for name, value in halved.items()}
            config = config.model_copy(update={kind.section: kind.settings(config).model_copy(update=halved)})
            try:
                with SubprocessStages((kind.name,), config) as child:
                    return replace(child(shard), degraded=lowered)
            except ChildDiedError as death:
                raise TransientError(f"{death}, on shard {shard.shard}, after memory had run out") from death
            except ChildOutOfMemoryError as error:
                tiles = _tiles(kind, config, is_static=is_static)
                halved = _halved(tiles) if num_left else {}
                if not self._config.placement.allow_degraded or not halved:
                    raise ConfigError(_memory_message(kind, shard, tiles, can_halve=bool(halved))) from error
                num_left -= 1
            logger.warning("shard %d continues with %s", shard.shard, halved)

    def _retry_raised(self, kind: StageKind, before: Shard, after: Shard) -> Shard:
        """Return `after`, with each image on which the stage raised replaced by a fresh subprocess's result."""
        returned = [now for image, now in zip(before.images, after.images, strict=True) if now != image]
        raised = {
            image.position
            for image in returned
            if (failure := image.failure) and failure.stage == kind.name and failure.reason in (STAGE_ERROR, BAD_OUTPUT)
        }
        if not raised:
            return after
        started = time.perf_counter()
        # The subprocess loads a second copy of the model, so memory is freed first. Its tiles are those of `after`.
        free_memory()
        settings = kind.settings(self._config).model_copy(update=_lowered(kind, after))
        config = self._config.model_copy(update={kind.section: settings})
        again: dict[int, ShardImage] = {}
        for image in before.images:
            if image.position in raised:
                # Each image gets a new subprocess, because a stage that raised may have damaged its process.
                with SubprocessStages((kind.name,), config) as child:
                    again[image.position] = retry_in_subprocess(before, image, child)
                if len(raised) == len(returned):
                    refuse_one_fault([each.failure for each in again.values()], STAGE_ERROR)
        images = tuple(again.get(image.position, image) for image in after.images)
        return after.with_images(images).with_seconds(kind.name, time.perf_counter() - started)


def _images_that_raise_alone(stage: Stage, shard: Shard) -> str:
    """Return in words the images with which alone a library fails; nothing if it fails with all.

    A library's error blames no image, but one that only some images meet is looked for in these.
    """
    raised = []
    for image in shard.images:
        try:
            stage(shard.with_images((image,)))
        # Libraries may raise anything.
        except Exception as error:  # noqa: BLE001
            if is_broken_device(error) or not is_of_libraries(error):
                return ""
            raised.append(image.key)
    return f"with {', '.join(raised)}" if 0 < len(raised) < len(shard.images) else ""


def _lowered(kind: StageKind, shard: Shard) -> dict[str, Any]:
    section = f"{kind.section}."
    return {name.removeprefix(section): n for name, n in shard.degraded.items() if name.startswith(section)}


def quarantine_crashing_images(shard: Shard, child: SubprocessStages) -> Shard:
    """Return the shard; images that alone kill a process twice are quarantined.

    Each image goes through the child's stages alone; the results are dropped. If a child is killed from outside (by the
    kernel, for lack of memory), no image is blamed.

    Args:
        shard: The stages' input; it has killed processes before.
        child: The stages to test the images with.

    Raises:
        As `retry_in_subprocess`.
    """
    images = []
    for image in shard.images:
        alone = image if image.failure else retry_in_subprocess(shard, image, child)
        is_crashing = alone.failure is not None and alone.failure.reason == KILLED
        images.append(alone if is_crashing else image)
    return shard.with_images(tuple(images))


def retry_in_subprocess(shard: Shard, image: ShardImage, child: SubprocessStages) -> ShardImage:
    """Return the image after the child's stages; quarantined if two children died of it.

    Raises:
        NoSubprocessError: No child can be started, or it lacks memory, or it dies while it loads its models.
        TransientError: The child was repeatedly killed from outside.
        BrokenDeviceError, PseudorisError: As `SubprocessStages`.
    """
    num_external, has_died = 0, False
    while True:
        try:
            return child(shard.with_images((image,))).images[0]
        except ChildOutOfMemoryError as error:
            raise NoSubprocessError(f"no memory for a subprocess with image {image.key}: {error}") from error
        except (BrokenDeviceError, ChildDiedError) as death:
            # The image may not be to blame, but the log should name it.
            logger.warning("with image %s alone: %s", image.key, death)
            if isinstance(death, BrokenDeviceError):
                raise
            if death.stage is None:
                raise NoSubprocessError(
                    f"the subprocess ended with status {death.status} while it loaded the models; its log says why"
                ) from death
            if is_external_signal(death.status):
                num_external += 1
                if num_external == _MAX_EXTERNAL_SIGNALS:
                    raise TransientError(
                        f"the {death.stage} stage was killed from outside {num_external} times while it worked on "
                        f"image {image.key}: the machine may be short of memory; give the actors more"
                    ) from death
            elif has_died:
                message = f"this image alone crashed the {death.stage} stage's process twice; the log has the signals"
                return image.quarantined(Failure(death.stage, KILLED, message))
            else:
                has_died = True


def _tiles(kind: StageKind, config: RunConfig, *, is_static: bool) -> dict[str, tuple[int, int]]:
    """Return what the stage's tile settings are, and what each may be lowered to."""
    settings = kind.settings(config)
    tiles = {name: (getattr(settings, name), least) for name, least in _TILES[kind.name].items()}
    if is_static:
        from pseudoris.workers.captions.static_engine import least_slots, num_slots

        tiles |= {
            "crops_together": (crops_in_fixed_shapes(settings.crops_together), 2),
            "slots": (num_slots(settings, config.compute), least_slots(settings)),
        }
    return tiles


def _halved(tiles: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """Return the tile settings halved; empty if all are at their smallest."""
    halved = {name: max(value // 2, least) for name, (value, least) in tiles.items() if value > least}
    if "slots" in halved:
        halved["slots"] -= halved["slots"] % tiles["slots"][1]
    return halved


def _memory_message(kind: StageKind, shard: Shard, tiles: Mapping[str, tuple[int, int]], *, can_halve: bool) -> str:
    said = {name: f"{kind.section}.{name} (now {value})" for name, (value, _) in tiles.items()}
    # In fixed shapes only the number of slots is part of a run's identity.
    slots = said.pop("slots", "")
    named = ", ".join(said.values()) + (f" when the run goes on, or {slots}" if slots else "")
    which = "it is" if slots else "they are"
    remedy = f" ({which} part of a run's identity), or pass --allow-degraded" if can_halve else ""
    return (
        f"the {kind.name} stage ran out of memory on shard {shard.shard}, and again in a fresh process: give its actor "
        f"more memory, or lower {named} in a new run{remedy}"
    )
