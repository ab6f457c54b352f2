"""A compass for speed that needs no GPU: what each stage asks of one, and the seconds that this models of five cards.

    python -m evidence.benchmarks.gpu_limits [--preset base] [--card-memory 0.0] [--images 256] [--masks 0]
    [--sureness 1.0 3.0 5.0 8.0] [--live 0] [--kept 0.4] [--stages masks|captions|filter …] [--set KEY=VALUE …]
    [--json FILE]

Settings are the preset's own; `auto` is what `doctor --card-memory GIB` prints, or without it what it is on a CPU.
Images have mixed numbers of masks (`mixed_counts`), or all of them `--masks`. Random logits of CoCa are multiplied by
each `--sureness`: at 1 all tokens are nearly alike likely, at 8 the nucleus is narrower than that of trained models.
`--live N` leaves N tokens of the vocabulary; what has a column for each of them counts as if all were there. N must be
no width of the model, such as 2053. Predicted IoU lets the masks of a share `--kept` of SAM's points pass, all three of
a point. Captions are decoded in fixed shapes, unless `--set captions.decoder=tree`.

Counted on the pretended GPU (`tests.oracles.pretended_gpu`) at true depth, width and vocabulary, an image, with random
weights. `kernels` write memory; `launches` are those of the host, of which a recorded step takes one; `reads` wait for
a value, a size, or memory that is not pinned; `decodes` are those of an actor, beside the prover's one; `useful` is
what attention needs, `tiles` what FlashAttention computes. `wide` is the share of tokens that fixed slots draw from the
whole vocabulary; `pairs` is what they compute of (prefix, crop) over what captions need. `host_s` are CPU seconds of
the actor's thread outside torch, without what counting takes a call: at most what a GPU's host spends there. Seconds
and images/s of cards are modelled, as docs/records/performance.md says, and leave the host's Python out: nothing here
was timed on a GPU.

Products, attention, norms and gathers of captions and filter are counted by their shapes, and random numbers stand for
their results: the vocabulary decides what is drawn, and is computed. A recorded step is counted once, because all its
replays have the same shapes (`counted_graph`). Captions of `tiny` are computed. Masks are those of the first four
images; all that is large is counted by its shape. Their bytes stand by part: the image encoder, the mask decoder's
attention, its upscaling; beside these norms, gathers of image tokens and of logits, and the rest, most of which makes
logits as large as the image.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Final
from unittest import mock

import torch

from evidence.benchmarks.captioner import mixed_counts, scenes_with
from evidence.benchmarks.counted_graph import Contents, CountedGraph
from evidence.benchmarks.gpu_meter import CARDS, LAUNCH_S, Meter, PartMeter, TorchClock, Words
from evidence.benchmarks.gpu_session_work import engine_of, raising
from evidence.benchmarks.measurement import options, print_table, random_weights, write_json
from pseudoris.images.pixels import decode_proven
from pseudoris.schemas.card_settings import choices_of_card, decoder_choices
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.shard import Shard
from pseudoris.workers.captions.static_decoder import Decoded, StaticDecoder
from pseudoris.workers.crops import shard_pixels
from pseudoris.workers.crops.shard_pixels import held_pixels
from pseudoris.workers.device import compute_dtype
from pseudoris.workers.masks import generator
from pseudoris.workers.masks.generator import SamProposer
from pseudoris.workers.masks.image_encoder import FusedEncoder
from pseudoris.workers.masks.prompt_decoder import SamCrossAttention, Upscaling
from pseudoris.workers.masks.sam_model import load_sam
from tests.oracles.pretended_gpu import PretendedGpu, pretended_gpu
from tests.oracles.pretended_graph import PretendedGraph

_COUNTED: Final = ("aten", "kernels", "launches", "copies", "reads", "decodes", "bytes", "useful", "tiles")
_STAGES: Final = ("masks", "captions", "filter")
# Masks are the same work for each image of a size, so of so many.
_MASK_IMAGES: Final = 4
# What is counted as a part of masks.
_PARTS: Final = (
    (FusedEncoder, "forward", "encoder"),
    *((SamCrossAttention, name, "attention") for name in ("read", "read_shared", "write")),
    (Upscaling, "__call__", "upscaling"),
)
# Of so many points predicted IoU is forced, in steps of a share of them.
_MOST_POINTS: Final = 2**20
_STEPS: Final = 100
_SHOWN: Final = 6
_VOCABULARY: Final = 49408
# All widths of the models are multiples of it.
_GRAIN: Final = 16


@contextmanager
def watched_decoders() -> Iterator[list[Decoded]]:
    """Yield a list that gets what decoders of fixed shapes do inside."""
    found, decode = list[Decoded](), StaticDecoder.decode

    def watched(decoder: StaticDecoder, *given: Any) -> Any:
        found.append(decode(decoder, *given))
        return found[-1]

    with mock.patch.object(StaticDecoder, "decode", watched):
        yield found


def limits_of(
    stage: str, work: Callable[[], Any], gpu: PretendedGpu, meter: Meter, *, images: int
) -> tuple[dict[str, Any], Any]:
    """Return what a call of `work` asks for an image, and what it returned."""
    clock, decoded = TorchClock(), list[None]()
    meter.clear()

    def decode(data: bytes, levels: Any = None) -> Any:
        decoded.append(None)
        return decode_proven(data, levels)

    def replay(graph: PretendedGraph) -> None:
        meter.counts["launches"] += 1
        with meter.recorded():
            clock.timed(original_replay, graph)

    original_replay, original_record = PretendedGraph.replay, PretendedGraph.__torch_function__

    def record(graph: PretendedGraph, *given: Any, **named: Any) -> Any:
        with meter.recorded():
            return clock.timed(original_record, graph, *given, **named)

    before = len(gpu.waits), gpu.num_copies
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(shard_pixels, "decode_proven", decode))
        stack.enter_context(mock.patch.object(PretendedGraph, "replay", replay))
        stack.enter_context(mock.patch.object(PretendedGraph, "__torch_function__", record))
        drawn = stack.enter_context(watched_decoders())
        stack.enter_context(meter)
        host_s, result = clock.outside(work)
    counts = meter.counts
    counts["copies"], counts["reads"] = gpu.num_copies - before[1], len(gpu.waits) - before[0]
    counts["decodes"] = len(decoded)
    launch_s = counts["launches"] * LAUNCH_S / images
    modelled = {card: max(launch_s, meter.card_s[card] / images) for card in CARDS}
    row = {
        "stage": stage,
        **{name: counts[name] / images for name in _COUNTED},
        "pairs": _share(drawn, "num_pairs", "num_needed"),
        "wide": _share(drawn, "num_wide", "num_decisions"),
        "host_s": host_s / images,
        "flops": {dtype: each / images for dtype, each in meter.flops.items() if each},
        "bytes_by": {name: each / images for name, each in meter.bytes_by.most_common()},
        "parts": {name: each / images for name, each in meter.parts.most_common()}
        if isinstance(meter, PartMeter)
        else None,
        "launch_s": launch_s,
        "modelled_s": modelled,
    }
    return row, result


def _share(found: Sequence[Decoded], part: str, whole: str) -> float | None:
    sums = [sum(getattr(each, name) for each in found) for name in (part, whole)]
    return sums[0] / sums[1] if found else None


def shipped_config(preset: str, card_gib: float, words: Sequence[str]) -> RunConfig:
    """Return what runs on a card of so many GiB of sm_80 or later; for 0 `auto` is what it is without a card."""
    words = [
        "captions.decoder=static",
        *random_weights(preset, ("masks", "captions", "filtering")),
        "compute.device=cuda",
        "placement.fused.num_gpus=1",
        *words,
    ]
    config = load_config(preset, assignments=words)
    if not card_gib:
        return config.without_card()
    card = choices_of_card(card_gib * 2**30, has_bfloat16=True)
    return config.with_chosen(card).with_chosen(decoder_choices(config.captions.decoder))


def kept_proposer(config: RunConfig, share: float) -> SamProposer:
    """Return the mask stage; what it predicts is 1 for a share of all points, spread over the grid, else 0."""
    every = torch.arange(_MOST_POINTS, device="cuda") * 37 % _STEPS < share * _STEPS
    forced = every.float()[:, None].expand(-1, 4)

    def load_forced(*given: Any) -> Any:
        sam = load_sam(*given)
        sam.mask_decoder.iou_prediction_head.register_forward_hook(lambda _, __, found: forced[: len(found)])
        return sam

    with mock.patch.object(generator, "load_sam", load_forced):
        return SamProposer(config.masks, config.compute)


def mask_limits(gpu: PretendedGpu, config: RunConfig, shard: Shard, *, kept: float) -> dict[str, Any]:
    """Return the row of masks of a shard, of whose points a share `kept` passes."""
    engine, meter = raising(kept_proposer(config, kept)), PartMeter()
    with ExitStack() as stack:
        for owner, method, part in _PARTS:
            stack.enter_context(meter.within(owner, method, part))
        return limits_of("masks", partial(engine, shard), gpu, meter, images=len(shard.images))[0]


def measure(
    config: RunConfig, stages: Sequence[str], shard: Shard, *, sureness: Sequence[float], live: int, kept: float
) -> Iterator[dict[str, Any]]:
    """Yield the row of each stage, that of captions by how sure their logits are; the filter takes the last ones."""
    is_random = config.captions.weights.uri.startswith("random:")
    hollow = [compute_dtype(config.compute)] if is_random else []
    first, rest = shard.with_images(shard.images[:1]), shard.with_images(shard.images[1:])
    few = rest.with_images(rest.images[:_MASK_IMAGES])
    with pretended_gpu() as gpu, held_pixels():
        if "masks" in stages:
            yield mask_limits(gpu, config, few, kept=kept)
        if not {"captions", "filter"} & set(stages):
            return
        for each in sureness:
            engine = engine_of("captions", config, sureness=each, live=live)
            meter = Meter(hollow, Words(live or _VOCABULARY, _VOCABULARY))
            graph = partial(CountedGraph, meter, Contents(meter)) if hollow else PretendedGraph
            with mock.patch.object(torch.cuda, "CUDAGraph", graph):
                # What a process does once is no part of a shard's host seconds.
                with meter:
                    warmed = engine(first)
                name, work = f"captions × {each:g}", partial(engine, rest)
                row, captioned = limits_of(name, work, gpu, meter, images=len(rest.images))
            if "captions" in stages:
                yield row
        if "filter" in stages:
            engine, meter = engine_of("filter", config), Meter(hollow)
            with meter:
                engine(warmed)
            yield limits_of("filter", partial(engine, captioned), gpu, meter, images=len(rest.images))[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """Count what the command line asks for, print the tables, write the JSON."""
    given, rows = options(__doc__, arguments), list[dict[str, Any]]()
    if given.live and given.live % _GRAIN == 0:
        sys.exit(f"--live {given.live} may be a width of the model, which would count as words: take {given.live + 5}")
    config = shipped_config(given.preset, given.card_memory, given.assignments)
    counts = [given.masks] * given.images if given.masks else mixed_counts(given.images)
    # The first image is one to warm up with.
    shard = scenes_with([counts[0], *counts], given.images + 1)
    stages = given.stages or list(_STAGES)
    for row in measure(config, stages, shard, sureness=given.sureness, live=given.live, kept=given.kept):
        rows.append(row)
        write_json(rows, given.json)
    masks = f"{given.masks} masks" if given.masks else "mixed numbers of masks"
    title = f"{given.preset}, {config.compute.precision}, {masks}, of {given.images} an image; seconds are modelled"
    names = [name for name in rows[0] if name not in ("stage", "modelled_s")]
    cells = [{"an image": name, **{row["stage"]: _cell(row[name]) for row in rows}} for name in names]
    print_table(title, cells, width=240)
    print_table("images/s of a card, modelled", list(_card_rows(rows, config.compute.precision)), width=240)


def _card_rows(rows: Sequence[Mapping[str, Any]], precision: str) -> Iterator[dict[str, str]]:
    """Yield by card the modelled images/s of each stage, and of all of them by how sure the captions are."""
    others = [row for row in rows if not row["stage"].startswith("captions")]
    for card, each in CARDS.items():
        cells = {"card": card}
        for row in rows:
            seconds = row["modelled_s"][card]
            cells[row["stage"]] = f"{1 / seconds:.2f}"
            if row not in others and len(others) > 1:
                together = seconds + sum(other["modelled_s"][card] for other in others)
                cells[f"all, {row['stage']}"] = f"{1 / together:.2f}"
        if precision == "bfloat16" and not each.has_bfloat16:
            cells = {name: "–" if name != "card" else card for name in cells}
        yield cells


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, dict):
        return ", ".join(f"{name} {each:.3g}" for name, each in list(value.items())[:_SHOWN])
    return f"{value:,.0f}" if 100 <= value < 1e6 else f"{value:.3g}"


if __name__ == "__main__":
    main()
