"""Stages without a model, for commits that are real: a fixed wait per shard, one mask and one expression per image.

Options of each (`masks.options`, `captions.options`, `filtering.options`): `shard_s`, seconds of work a shard;
`decodes`, whether it takes each image's pixels as an engine on a GPU does. The plug-in `timed` of `scale`, `memory` and
`pipeline --megapixels`, which with `--before` loads it beside an earlier checkout: it must fit both.
"""

from __future__ import annotations

import functools
import time
from collections import deque
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np
from pycocotools import mask as coco

from pseudoris.schemas.config import CaptionsConfig, ComputeConfig, FilterConfig, MasksConfig
from pseudoris.schemas.ids import mask_id, sha256_hex
from pseudoris.schemas.shard import CaptionSample, ExpressionRecord, MaskRecord, Shard, ShardImage

_SAMPLES = (CaptionSample("masked", "top_k", 5, None, -0.5),)


# Bytes of each image that the stages of this process have decoded.
DECODED: list[int] = []


@functools.cache
def decoding() -> Any:
    """Return the module by which the stages of this version, or of 0.5.0, decode; it counts in `DECODED`."""
    rooms = "pseudoris.workers.crops"
    module: Any = import_module(f"{rooms}.{'shard_pixels' if find_spec(f'{rooms}.shard_pixels') else 'crops'}")
    decode = module.decode_proven

    def counted(data: bytes) -> Any:
        DECODED.append(len(data))
        return decode(data)

    module.decode_proven = counted
    return module


class _Timed:
    """Waits as long as its options say, then does `_work` to every sound image."""

    def __init__(self, config: MasksConfig | CaptionsConfig | FilterConfig, compute: ComputeConfig) -> None:
        seconds: Any = config.options.get("shard_s", 0.0)
        self._shard_s, self._pixels = float(seconds), decoding() if config.options.get("decodes") else None

    def __call__(self, shard: Shard) -> Shard:
        time.sleep(self._shard_s)
        if self._pixels:
            sound = [image for image in shard.images if not image.failure]
            with self._pixels.prefetched_pixels(sound, SimpleNamespace(type="cuda")) as decode:
                deque(map(decode, sound), maxlen=0)
        return shard.with_images(tuple(image if image.failure else self._work(image) for image in shard.images))

    @classmethod
    def weights_digest(cls, config: MasksConfig | CaptionsConfig | FilterConfig) -> str:
        return sha256_hex(cls.__name__.encode())

    def _work(self, image: ShardImage) -> ShardImage:
        raise NotImplementedError


class TimedProposer(_Timed):
    """One mask of one pixel an image."""

    def _work(self, image: ShardImage) -> ShardImage:
        height, width = image.height or 1, image.width or 1
        mask = MaskRecord(
            mask_id=mask_id(image.image_id, 0),
            index=0,
            rle_size=(height, width),
            rle_counts=_first_pixel(height, width),
            box_xyxy_px=(0, 0, 1, 1),
            area_px=1,
        )
        return replace(image, masks=(mask,))


class TimedCaptioner(_Timed):
    """One expression a mask."""

    def _work(self, image: ShardImage) -> ShardImage:
        expressions = (
            ExpressionRecord(target_mask_ids=(mask.mask_id,), text="a pixel", samples=_SAMPLES) for mask in image.masks
        )
        return replace(image, expressions=tuple(expressions))


class TimedScorer(_Timed):
    """Keeps every expression."""

    def _work(self, image: ShardImage) -> ShardImage:
        scored = (replace(each, head_noun="pixel", correctness=1.0, kept=True) for each in image.expressions)
        return replace(image, expressions=tuple(scored))


@functools.cache
def _first_pixel(height: int, width: int) -> str:
    """Return the run lengths of the mask of the upper left pixel."""
    pixels = np.zeros((height, width), np.uint8, order="F")
    pixels[0, 0] = 1
    return str(coco.encode(pixels)["counts"].decode("ascii"))
