"""The parts of mask proposal, and what a run of it spends in each: seconds, or operations and bytes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final
from unittest import mock

from segment_anything.modeling import ImageEncoderViT

from pseudoris.workers.masks import generator, sam_model
from pseudoris.workers.masks.prompt_decoder import SamPromptDecoder, Upscaling

REST: Final = "the rest"
# A part that runs inside of another one does not count for that one.
PARTS: Final[tuple[tuple[str, Any, str], ...]] = (
    ("image encoder", ImageEncoderViT, "__call__"),
    ("prompts: transformer", SamPromptDecoder, "__call__"),
    ("prompts: upscaling", Upscaling, "__call__"),
    ("logits to the image's size", sam_model, "upsample"),
    ("stability, boxes, bits", generator, "measure"),
    ("RLE", generator, "encode_proposals"),
)

# What has been spent since some moment: seconds, or operations and bytes.
Meter = Callable[[], tuple[float, ...]]


def spent_by_part(propose: Callable[[], object], meter: Meter) -> dict[str, tuple[float, ...]]:
    """Run `propose` once, and return by part what `meter` counted in it; `REST` is what no part spent."""
    spent: dict[str, tuple[float, ...]] = {}
    open_parts = [REST]
    last = meter()

    def close_account() -> None:
        nonlocal last
        now, part = meter(), open_parts[-1]
        before = spent.get(part, (0.0,) * len(now))
        spent[part] = tuple(total + new - old for total, new, old in zip(before, now, last, strict=True))
        last = now

    def accounted(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            close_account()
            open_parts.append(part)
            try:
                return function(*arguments, **options)
            finally:
                close_account()
                open_parts.pop()

        return call

    with ExitStack() as patches:
        for part, owner, attribute in PARTS:
            patches.enter_context(mock.patch.object(owner, attribute, accounted(part, getattr(owner, attribute))))
        propose()
        close_account()
    return spent
