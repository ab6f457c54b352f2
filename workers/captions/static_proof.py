"""Shows on the card at hand whether fixed shapes decode there as they should. Called by `decoder_choice`, before a run.

What is shown is what only a card can get wrong: its compiler, its recordings, and products whose bits depend on the
place of a row. The model is random, of the run's widths, vocabulary, rules and precision, with few layers. The number
of launches and of compiled kernels is fixed, and the first part that fails is named.
"""

from __future__ import annotations

import contextlib
import gc
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain
from typing import Any, Final, cast

import torch
from open_clip.coca_model import CoCa

from pseudoris.primitives.clip_tokenizer import byte_pair_encoder
from pseudoris.primitives.errors import BrokenDeviceError, ConfigError
from pseudoris.schemas.card_settings import crops_in_fixed_shapes
from pseudoris.schemas.config import CaptionsConfig, ComputeConfig
from pseudoris.workers.captions import row_kernels
from pseudoris.workers.captions.cached_towers import CocaBlocks
from pseudoris.workers.captions.captioner import coca_engine
from pseudoris.workers.captions.decoding_rules import ImageCrops
from pseudoris.workers.captions.recorded_step import launched
from pseudoris.workers.captions.static_engine import least_slots, num_slots
from pseudoris.workers.captions.vocabulary_logits import SpecialTokens, score_dtype
from pseudoris.workers.checkpoints.openclip import build_from_config, read_model_config
from pseudoris.workers.device import compute_dtype, prepare_device
from pseudoris.workers.faults.quarantine import is_broken_device, is_out_of_memory

_LAYERS: Final = {"vision_cfg": 1, "text_cfg": 1, "multimodal_cfg": 2}
# Masks of the images, and rows that the kernels compute.
_MASKS, _ROWS = (4, 1, 3), 65
# Crops that rows attend to, and image tokens of each: more than a kernel reads at once.
_CROPS, _IMAGE_TOKENS = 5, 80
# Captions of up to eight tokens, and logits times eight: rounding then changed 11 to 16 of 88 captions in bfloat16, and
# none in float32 (`tiny` on a CPU, four and two models). A fault changes nearly all, so half of them must be equal.
_MIN_LENGTH, _MAX_LENGTH, _SURENESS = 4, 8, 8.0
_TOKENS_A_FLAT_ONE: Final = 8
# Crops of the short proof, which has the fewest slots; the whole one has those of the run.
_SHORT_TOGETHER: Final = 16


def fault_of_fixed_shapes(captions: CaptionsConfig, compute: ComputeConfig, *, is_short: bool = False) -> str:
    """Return what fixed shapes get wrong on this process's device, in words; empty if nothing.

    The short proof is of the kernels and of recordings; it leaves out neighbours and the tree.

    Raises:
        ConfigError: The device is not there, or the architecture cannot be decoded.
        BrokenDeviceError: The device failed, and this process cannot use it any further.
        OutOfMemoryError, MemoryError: Of torch and Python: that shows nothing of fixed shapes.
    """
    device, dtype = prepare_device(compute), compute_dtype(compute)
    config = read_model_config(captions.architecture, is_captioner=True)
    longest = min(captions.max_length, _MAX_LENGTH)
    lengths = {"min_length": min(_MIN_LENGTH, longest), "max_length": longest}
    slots = least_slots(captions) if is_short else num_slots(captions, compute)
    # It may still be `auto`: what that is follows from this proof.
    together = _SHORT_TOGETHER if is_short else crops_in_fixed_shapes(captions.crops_together)
    few = captions.model_copy(update={**lengths, "crops_together": together, "slots": slots})
    try:
        model = _random_model(config, is_short=is_short).to(device, dtype)
        kernels = _kernel_faults(CocaBlocks(model), captions.max_length - 1)
        with torch.inference_mode():
            return next(chain(kernels, _decoding_faults(model, few, is_short=is_short)), "")
    # The device may still be used: slots stand still, because a step is wrong.
    except BrokenDeviceError as error:
        return str(error)
    # Compilers, drivers and libraries may raise anything.
    except Exception as error:
        if isinstance(error, ConfigError) or is_out_of_memory(error):
            raise
        if is_broken_device(error):
            raise BrokenDeviceError(row_kernels.in_one_line(error)) from error
        return row_kernels.in_one_line(error)
    finally:
        gc.collect()
        # On a broken device this fails too, and would hide the error that broke it. Pixels that stages keep stay.
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()


def _random_model(config: Mapping[str, Any], *, is_short: bool) -> CoCa:
    few = {part: {**config[part], "layers": layers} for part, layers in _LAYERS.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = cast("CoCa", build_from_config({**config, **few})).requires_grad_(False)
    model.text_decoder.text_projection *= _SURENESS
    if not is_short:
        # After some tokens a channel that no logit reads drowns the others: all logits are near, and nuclei are wide.
        model.text_decoder.text_projection[0] = 0
        cast("CoCa", model.text).token_embedding.weight[::_TOKENS_A_FLAT_ONE, 0] = 100
    return model


def _kernel_faults(blocks: CocaBlocks, length: int) -> Iterator[str]:
    """Yield where the kernels of rows differ from plain torch, at the widths of both towers."""
    dtype = str(blocks.like.dtype).removeprefix("torch.")
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(blocks.like)

    for heads, width in ((int(blocks.text.heads), int(blocks.text.width)), (blocks.layers[0].num_heads, blocks.width)):
        head = width // heads
        projected, cache = random(_ROWS, 3, heads, head), random(2, _ROWS, heads, length, head)
        if found := _attention_difference(projected, cache):
            yield f"attention by Triton differs from torch by {found:.1g} at width {head} in {dtype}"
        cache = random(2, _CROPS, heads, _IMAGE_TOKENS, head)
        crops = (torch.arange(_ROWS) ** 2 % _CROPS).to(cache.device)
        image = projected[:, 0].contiguous(), cache, crops, crops.argsort(stable=True)
        if found := _difference(row_kernels.attend_image(*image), row_kernels.plain_attend_image(*image)):
            yield f"attention to images by Triton differs from torch by {found:.1g} at width {head} in {dtype}"
        shift, weight, bias = random(width), random(width), random(width)
        norm = random(_ROWS, width), shift.to(score_dtype(shift.dtype)), weight, bias, 1e-5
        if found := _difference(row_kernels.shifted_norm(*norm), row_kernels.plain_shifted_norm(*norm)):
            yield f"the norm by Triton differs from torch by {found:.1g} at width {width} in {dtype}"


def _attention_difference(projected: torch.Tensor, cache: torch.Tensor) -> float:
    """Return how far attention is from plain torch, in results or in the cache. What no row may read is NaN."""
    num_rows, length = cache.shape[1], cache.shape[3]
    rows, times = torch.arange(num_rows), torch.arange(length)
    # Rows are at all positions, and each takes earlier ones from rows at its own.
    position = rows % length
    sources = (rows[:, None] + length * times) % max(num_rows // length * length, 1)
    sources[rows, position] = rows
    # One row does not read its newest position, and those that read more than two do not read the first.
    is_late, one = position > 1, torch.nonzero(position > 2)[:1, 0]
    sources[is_late, 0] = sources[one, position[one]] = -1
    position, sources, is_late = (each.to(cache.device) for each in (position, sources.int(), is_late))
    is_unwritten = times.to(cache.device) >= position[:, None]
    is_unwritten[:, 0] |= is_late
    cache.masked_fill_(is_unwritten[None, :, None, :, None], torch.nan)
    written = cache.clone()
    found = row_kernels.attend_newest(projected, cache, position, sources)
    expected = row_kernels.plain_attend_newest(projected, written, position, sources)
    return max(_difference(found, expected), _difference(cache.nan_to_num(), written.nan_to_num()))


def _difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference, inf for NaN; 0 where rounding explains it: of results, and of sums in float32."""
    allowed = 2 * torch.finfo(found.dtype).eps + 32 * torch.finfo(torch.float32).eps
    difference = float((found.double() - expected.double()).abs().nan_to_num(torch.inf).max())
    return 0.0 if difference <= allowed * float(expected.double().abs().max()) else difference


def _decoding_faults(model: CoCa, captions: CaptionsConfig, *, is_short: bool) -> Iterator[str]:
    """Yield what changes the captions of random crops: launches, neighbours, their order, the tree."""
    tokenizer, like = byte_pair_encoder(), model.text_decoder.text_projection
    special = SpecialTokens(tokenizer.sot_token_id, tokenizer.eot_token_id, model.text.pad_id)
    build = partial(coca_engine, model, special, captions, seed=0)
    generator, size = torch.Generator().manual_seed(0), model.visual.image_size[0]
    images = []
    for count in _MASKS[:1] if is_short else _MASKS:
        pixels = torch.randn(1, count, 3, size, size, generator=generator)
        images.append(ImageCrops(str(count), ("masked",), tuple(range(count)), pixels.to(like)))
    static = build(is_static=True)
    with launched():
        found = static.generate_together(images)
    # The first of these records all steps, the second replays them alone.
    if any(static.generate_together(images) != found for _ in range(2)):
        yield "a step gives other bits where it is recorded than where it is launched"
    if is_short:
        return
    if static.generate_together(images[::-1])[::-1] != found or [static.generate(each) for each in images] != found:
        yield "the bits of a caption depend on what is decoded beside it"
    # Caches of both ways need not fit at once. Steps and decoders refer to each other, so only a collection frees them.
    del static
    gc.collect()
    is_equal: defaultdict[str, list[bool]] = defaultdict(list)
    for one, other in zip(chain(*found), chain(*build(is_static=False).generate_together(images)), strict=True):
        is_equal[one.sample.decoder].append(one.tokens == other.tokens)
    of_all = list(chain(*is_equal.values()))
    for name, of_rule in is_equal.items():
        if not any(of_rule) or sum(of_all) < len(of_all) / 2:
            yield f"{sum(of_rule)} of {len(of_rule)} captions by {name} are those of the tree"
