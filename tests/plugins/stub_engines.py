"""Engines without a model for tests of what lies around models: cheap, deterministic, and faulty on request.

What they do to an image follows from its bytes, the seed and the options alone, as it must for real ones.
Options of the stub proposer (`masks.options`):

    sleep_s        seconds of work an image
    marker         path of a file; once it exists, `fault` strikes
    fault          `config`, `transient`, `bug` or `load` (a ConfigError in the constructor)
    raises_on      a key whose image makes the stage raise, as a model's bug would
    raises_times   how often `raises_on` strikes before it is over, in all processes together (default: always)
    pids           path of a file that takes the number of each process in which `raises_on` strikes
    child_dies     how often, in all processes together, a subprocess dies in C before the stub is loaded
    breaks_on      a key whose image meets an error of the disk
    kills_on       a key whose image ends the process, in C, as a bug in a library would
    kills_with     the signal that does it (default: SIGABRT)
    kills_times    how often `kills_on` strikes before it is over, in all processes together (default: always)
    device_fails   how often, in all processes together, the accelerator fails before it is over
    hoards         how often, in all processes together, a shard takes `hoard_mb` megabytes and holds them until killed
    tally          path of a file that counts what strikes a limited number of times, a byte each
    mb_per_point   megabytes that a shard takes for each of `masks.points_per_batch`, above what is allowed:
    roomy_pid      a process to which that does not apply
    allowed_mb     megabytes that this process may take beyond what it has; beyond them memory runs out, for real

Options of the stub captioner (`captions.options`):

    blank_on       a key whose image gets a text of blanks
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco

from pseudoris.primitives.errors import ConfigError, TransientError
from pseudoris.schemas.config import CaptionsConfig, ComputeConfig, FilterConfig, MasksConfig
from pseudoris.schemas.ids import mask_id, sha256_hex
from pseudoris.schemas.shard import CaptionSample, ExpressionRecord, MaskRecord, Shard, ShardImage
from pseudoris.workers.faults.quarantine import apply_to_images

# Data and stack in pages, see proc_pid_statm(5).
_STATM_DATA = 5
_ADJECTIVES = ("red", "small", "dotted", "left", "round")
_NOUNS = ("cup", "kite", "boat", "lamp", "leaf", "key")


class _Stub:
    @classmethod
    def weights_digest(cls, config: MasksConfig | CaptionsConfig | FilterConfig) -> str:
        return sha256_hex(config.weights.uri.encode())


class StubProposer(_Stub):
    """Up to three rectangles an image; some images have none."""

    def __init__(self, config: MasksConfig, compute: ComputeConfig) -> None:
        self._options = config.options
        self._seed = compute.seed
        self._points_per_batch = config.points_per_batch
        if sys.argv[0].endswith("subprocess_stages_main.py") and self._strikes("child_dies"):
            os.kill(os.getpid(), signal.SIGABRT)
        if self._options.get("fault") == "load" and self._is_due():
            raise ConfigError("the stub's weights are missing: install them")

    def __call__(self, shard: Shard) -> Shard:
        if self._is_due():
            _strike(str(self._options.get("fault")))
        if self._strikes("device_fails"):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if self._strikes("hoards"):
            hoard = np.ones(int(self._options["hoard_mb"]) * 2**20, np.uint8)
            time.sleep(60)
            raise TransientError(f"nobody ended the process that holds {hoard.size} bytes")
        if "mb_per_point" in self._options and os.getpid() != self._options.get("roomy_pid"):
            self._take_memory()
        return apply_to_images(shard, "propose", self._propose)

    def _is_due(self) -> bool:
        marker = self._options.get("marker")
        return bool(self._options.get("fault")) and (marker is None or Path(str(marker)).exists())

    def _strikes(self, name: str, always: str | None = None) -> bool:
        """Return whether a fault of limited number strikes now, and count it."""
        if name not in self._options:
            return name == always
        with Path(str(self._options["tally"])).open("ab") as file:
            is_due = file.tell() < int(self._options[name])
            file.write(b"." if is_due else b"")
        return is_due

    def _take_memory(self) -> None:
        # Private writable pages alone: the address space may grow by 128 MB with another thread's first allocation.
        # Asked of the kernel, not of malloc: what malloc asks for depends on the environment
        # (`pseudoris.workers.process_memory`).
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        size = int(Path("/proc/self/statm").read_text().split()[_STATM_DATA]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (size + int(self._options["allowed_mb"]) * 2**20, hard))
        try:
            size_bytes = int(self._options["mb_per_point"]) * self._points_per_batch * 2**20
            mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
        except OSError as error:
            raise MemoryError(f"unable to allocate {size_bytes} bytes") from error
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))

    def _propose(self, image: ShardImage) -> ShardImage:
        time.sleep(float(self._options.get("sleep_s", 0.0)))
        if image.key == self._options.get("raises_on") and self._strikes("raises_times", always="raises_times"):
            if "pids" in self._options:
                with Path(str(self._options["pids"])).open("a") as file:
                    file.write(f"{os.getpid()}\n")
            raise ZeroDivisionError(f"a message that differs: {time.time()}")
        if image.key == self._options.get("breaks_on"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), "weights.bin")
        if image.key == self._options.get("kills_on") and self._strikes("kills_times", always="kills_times"):
            os.kill(os.getpid(), int(self._options.get("kills_with", signal.SIGABRT)))
            time.sleep(60)
        draw = _draws(image.data, self._seed)
        return replace(image, masks=tuple(_mask(image, index, next(draw)) for index in range(next(draw) % 4)))


class StubCaptioner(_Stub):
    """Five draws a mask, of which equal texts are one candidate."""

    OPTIONS = frozenset({"blank_on", "ends_with"})

    def __init__(self, config: CaptionsConfig, compute: ComputeConfig) -> None:
        self._seed, self._end = compute.seed, config.options.get("ends_with", "")
        self._blank_on = config.options.get("blank_on")

    def __call__(self, shard: Shard) -> Shard:
        return apply_to_images(shard, "caption", self._caption)

    def _caption(self, image: ShardImage) -> ShardImage:
        expressions = [each for mask in image.masks for each in self._candidates(mask)]
        if image.key == self._blank_on:
            expressions[0] = replace(expressions[0], text="   ")
        return replace(image, expressions=tuple(expressions))

    def _candidates(self, mask: MaskRecord) -> Iterator[ExpressionRecord]:
        draw = _draws(mask.mask_id.encode(), self._seed)
        samples: dict[str, list[CaptionSample]] = {}
        for k in range(1, 6):
            text = f"{_ADJECTIVES[next(draw) % 3]} {_NOUNS[next(draw) % 3]}{self._end}"
            samples.setdefault(text, []).append(CaptionSample("masked", "top_k", k, None, -0.25 * k))
        for text, drawn in samples.items():
            yield ExpressionRecord(target_mask_ids=(mask.mask_id,), text=text, samples=tuple(drawn))


class StubScorer(_Stub):
    """Scores between 0.5 and 1.5, against the first other mask as the rival."""

    def __init__(self, config: FilterConfig, compute: ComputeConfig) -> None:
        self._tau = config.tau

    def __call__(self, shard: Shard) -> Shard:
        return apply_to_images(shard, "filter", self._score_all)

    def _score_all(self, image: ShardImage) -> ShardImage:
        return replace(image, expressions=tuple(self._score(image, each) for each in image.expressions))

    def _score(self, image: ShardImage, expression: ExpressionRecord) -> ExpressionRecord:
        draw = _draws(expression.text.encode(), len(image.masks))
        others = [mask.mask_id for mask in image.masks if mask.mask_id not in expression.target_mask_ids]
        score = 0.5 + next(draw) / 255
        return replace(
            expression,
            head_noun=expression.text.rpartition(" ")[2],
            uniqueness=score if others else None,
            correctness=next(draw) / 255,
            distinctiveness=score if others else None,
            rival_mask_id=others[0] if others else None,
            kept=score > self._tau or not others,
        )


def _strike(fault: str) -> None:
    if fault == "config":
        raise ConfigError("the stub was told to fail: take the option away")
    if fault == "transient":
        raise TransientError("the stub's bucket does not answer; run the same command again")
    raise ValueError("a bug in the stub")


def _mask(image: ShardImage, index: int, draw: int) -> MaskRecord:
    height, width = image.height, image.width
    x0, y0 = draw % width, (draw // 7) % height
    x1, y1 = min(x0 + 1 + draw % 5, width), min(y0 + 1 + draw % 3, height)
    pixels = np.zeros((height, width), np.uint8, order="F")
    pixels[y0:y1, x0:x1] = 1
    return MaskRecord(
        mask_id=mask_id(image.image_id, index),
        index=index,
        rle_size=(height, width),
        rle_counts=coco.encode(pixels)["counts"].decode("ascii"),
        box_xyxy_px=(x0, y0, x1, y1),
        area_px=(x1 - x0) * (y1 - y0),
        predicted_iou=draw / 255,
        stability_score=1.0,
    )


def _draws(data: bytes, seed: int) -> Iterator[int]:
    """Yield bytes of a hash chain over `data` and `seed`, 0 to 255."""
    digest: Any = hashlib.sha256(data + seed.to_bytes(8, "little")).digest()
    while True:
        yield from digest
        digest = hashlib.sha256(digest).digest()
