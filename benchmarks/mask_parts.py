"""The parts of mask proposal, and what a run of it spends in each: seconds, or operations and bytes."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest import mock

from segment_anything.modeling import ImageEncoderViT

from pseudoris.workers.masks import generator, mask_candidates, sam_frames
from pseudoris.workers.masks.prompt_decoder import SamPromptDecoder, Upscaling

REST: Final = "the rest"
# A part that runs inside of another one does not count for that one.
PARTS: Final[tuple[tuple[str, Any, str], ...]] = (
    ("image encoder", ImageEncoderViT, "__call__"),
    ("prompts: transformer", SamPromptDecoder, "__call__"),
    ("prompts: upscaling", Upscaling, "__call__"),
    ("logits to the image's size", sam_frames, "upsample"),
    ("stability, boxes, bits", mask_candidates, "measure"),
    ("RLE", generator, "encode_proposals"),
)

# What has been spent since some moment: seconds, or operations and bytes.
Meter = Callable[[], tuple[float, ...]]


def spent_by_part(propose: Callable[[], object], meter: Meter) -> dict[str, tuple[float, ...]]:
    """Run `propose` once, and return by part what `meter` counted in it; `REST` is what no part spent."""
    spent: dict[str, tuple[float, ...]] = defaultdict(lambda: (0.0,) * len(meter()))
    open_parts = [REST]
    last = meter()

    def close_account() -> None:
        nonlocal last
        now = meter()
        before = spent[open_parts[-1]]
        spent[open_parts[-1]] = tuple(total + new - old for total, new, old in zip(before, now, last, strict=True))
        last = now

    @contextmanager
    def part(name: str) -> Iterator[None]:
        close_account()
        open_parts.append(name)
        try:
            yield
        finally:
            close_account()
            open_parts.pop()

    with ExitStack() as patches:
        for name, owner, attribute in PARTS:
            patches.enter_context(mock.patch.object(owner, attribute, _within(part, name, getattr(owner, attribute))))
        propose()
        close_account()
    return dict(spent)


def _within(part: Callable[[str], Any], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def measured(*arguments: Any, **options: Any) -> Any:
        with part(name):
            return function(*arguments, **options)

    return measured
