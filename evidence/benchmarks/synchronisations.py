"""Counts where the CPU would wait for a GPU: in a step, a batch, an image or a shard of SAM, CoCa, CLIP, PPT.

    python -m evidence.benchmarks.synchronisations [--precision float32|bfloat16|float16] [--places] [--json FILE]

The engines run with the tiny preset and `compute.device=cuda` on a GPU that is pretended
(`tests.oracles.pretended_gpu`), so no GPU is needed. Each wait costs the time in which the GPU has nothing queued.
`--places` tells which of our functions wait, and in what.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, Final
from unittest import mock

import numpy as np
import torch

from evidence.benchmarks.captioner import scenes_with
from evidence.benchmarks.measurement import options, write_json
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.shard import Shard
from pseudoris.workers.captions import CocaCaptioner
from pseudoris.workers.captions import captioner as captioner_module
from pseudoris.workers.captions.cached_towers import CachedCocaTowers
from pseudoris.workers.captions.listener import Listener
from pseudoris.workers.captions.prefix_tree_decoder import PrefixTreeDecoding
from pseudoris.workers.captions.static_decoder import StaticDecoder
from pseudoris.workers.filtering import ClipScorer
from pseudoris.workers.masks import instances as instances_module
from pseudoris.workers.masks.generator import MaskGenerator, SamProposer
from tests.oracles.pretended_gpu import PretendedGpu, Wait, pretended_gpu, waits_of

_MASKS, _IMAGES = 3, 2
# Words of random weights are nearly alike likely: more than the top logits are kept. Each step then takes a second.
_WIDE_MASKS: Final = 2
_UNTRAINED: Final = ["captions.weights.uri=random:0", "captions.max_length=5"]
# What makes tensors larger and changes no wait: points of SAM, rules of captions, slots of which some are filled anew.
_FEW: Final = ["masks.points_per_side=6", "captions.sampling.top_p=[0.8]", "captions.slots=256"]
# Several tiles a shard.
_TILE: Final = 8
_PAIRS, _LABELS, _SIDE_PX = 2, 2, 64


@dataclass(frozen=True, slots=True)
class SyncRow:
    """The waits of one kind of work.

    Attributes:
        part: What is counted, and how often it happens.
        num_calls: How many were counted.
        median: Waits of the median call.
        most: Waits of the call with the most.
        places: How often each operation waited at each place, in all calls.
    """

    part: str
    num_calls: int
    median: float
    most: int
    places: dict[str, int]

    @classmethod
    def of(cls, part: str, calls: Sequence[Sequence[Wait]]) -> SyncRow:
        """Return the row of the waits of each call, at least one."""
        counts = [len(call) for call in calls]
        places = Counter(f"{wait.operation} in {wait.place}" for call in calls for wait in call)
        return cls(part, len(calls), statistics.median(counts), max(counts), dict(places.most_common()))


def measure(precision: str) -> Iterator[SyncRow]:
    """Yield the rows of all engines, then that of a training, which has a precision of its own."""
    words = ["compute.device=cuda", "placement.fused.num_gpus=1", f"compute.precision={precision}"]
    words += [f"filtering.batch_size={_TILE}", "captions.decoder=static", *_FEW]
    config = load_config("tiny", assignments=[*words, "captions.listening={}"])
    untrained = load_config("tiny", assignments=[*words, *_UNTRAINED, "captions.decoder=tree"])
    shard = scenes_with(_MASKS, _IMAGES)
    with pretended_gpu() as gpu:
        yield from _mask_rows(gpu, config, shard)
        yield _instance_row(gpu)
        captioner = CocaCaptioner(config.captions, config.compute)
        captioned = yield from _caption_rows(gpu, captioner, shard)
        yield _wide_row(gpu, CocaCaptioner(untrained.captions, untrained.compute), scenes_with(_WIDE_MASKS, 1))
        scorer = ClipScorer(config.filtering, config.compute)
        with waits_of(gpu, ClipScorer, "__call__") as shards:
            scorer(captioned)
        yield SyncRow.of("filter, a shard", shards)
        yield _training_row(gpu)


def _mask_rows(gpu: PretendedGpu, config: RunConfig, shard: Shard) -> Iterator[SyncRow]:
    proposer = SamProposer(config.masks, config.compute)
    with waits_of(gpu, MaskGenerator, "together") as batches:
        proposer(shard)
    yield SyncRow.of("masks, a batch of images", batches)


def _instance_row(gpu: PretendedGpu) -> SyncRow:
    """Return the row of an image's instances; torchvision's detector, which waits too, is a stand-in."""
    pixels = np.zeros((_SIDE_PX, _SIDE_PX, 3), np.uint8)
    with waits_of(gpu, instances_module, "detect_instances") as images:
        instances_module.detect_instances(_FixedDetections(), pixels, device=torch.device("cuda"), min_score=0.5)
    return SyncRow.of("instances, an image beside the detector", images)


class _FixedDetections(torch.nn.Module):
    """Answers as a torchvision detector does, whatever it is shown."""

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        height, width = images[0].shape[1:]
        rows = torch.arange(height, device="cuda", dtype=torch.float32) / height
        return [{"scores": 1 - rows[:_MASKS], "masks": rows[:, None].expand(_MASKS, 1, -1, width)}]


def _caption_rows(gpu: PretendedGpu, captioner: CocaCaptioner, shard: Shard) -> Generator[SyncRow, None, Shard]:
    """Yield the rows of a captioner, and return the captioned shard."""
    with (
        waits_of(gpu, captioner_module, "mask_crops") as crops,
        waits_of(gpu, StaticDecoder, "decode") as batches,
        waits_of(gpu, Listener, "listen") as listened,
        waits_of(gpu, CocaCaptioner, "_caption") as images,
    ):
        captioned = captioner(shard)
    yield SyncRow.of("crops, an image", crops)
    yield SyncRow.of("captions, a batch", batches)
    yield SyncRow.of("captions, all else of the images", [_beside(images, [*crops, *batches, *listened])])
    yield SyncRow.of("listener, an image", listened)
    return captioned


def _wide_row(gpu: PretendedGpu, captioner: CocaCaptioner, shard: Shard) -> SyncRow:
    with _caption_steps(gpu) as steps:
        captioner(shard)
    return SyncRow.of("captions, a step of the tree with wide kept sets", steps)


@contextmanager
def _caption_steps(gpu: PretendedGpu) -> Iterator[list[list[Wait]]]:
    """Yield a list that gets the waits of each step: from one call of the towers to the next, or to the end."""
    steps: list[list[Wait]] = []
    starts: list[int] = []
    step, run = CachedCocaTowers.step, PrefixTreeDecoding.run

    def watched_step(towers: CachedCocaTowers, *args: Any) -> Any:
        starts.append(len(gpu.waits))
        return step(towers, *args)

    def watched_run(decoding: PrefixTreeDecoding, *searched: Any) -> None:
        run(decoding, *searched)
        steps.extend(gpu.waits[first:end] for first, end in pairwise([*starts, len(gpu.waits)]))
        starts.clear()

    with (
        mock.patch.object(CachedCocaTowers, "step", watched_step),
        mock.patch.object(PrefixTreeDecoding, "run", watched_run),
    ):
        yield steps


def _beside(calls: Sequence[Sequence[Wait]], counted: Sequence[Sequence[Wait]]) -> list[Wait]:
    """Return the waits of some calls without those counted elsewhere."""
    every, elsewhere = (Counter(wait for call in each for wait in call) for each in (calls, counted))
    return list((every - elsewhere).elements())


def _training_row(gpu: PretendedGpu) -> SyncRow:
    # Imported here: a machine without a trainer lacks Fabric.
    from pseudoris.training.learning.trainer import Trainer, make_optimiser
    from pseudoris.training.ppt.ppt_config import load_ppt_config
    from pseudoris.training.ppt.ppt_learner import FrozenEncoders, PointLearner

    config = load_ppt_config("tiny", None, [])
    learner = PointLearner(config, FrozenEncoders(config, "cuda"))
    module = learner.module.to("cuda")
    optimiser = make_optimiser(module, config.training)
    trainer = Trainer(_OneGpu(), config.training, folder=None, settings="")  # type: ignore[arg-type]
    batch = _pairs(learner.encoders.frame.grid, config.generator.num_points)
    with waits_of(gpu, Trainer, "_step") as steps:
        for step in range(3):
            trainer._step(learner, module, optimiser, batch, step)
    return SyncRow.of("PPT, a step of the trainer", steps[1:])


class _OneGpu(SimpleNamespace):
    """What the trainer asks of Fabric, which takes no pretended GPU."""

    world_size, global_rank = 1, 0

    def backward(self, loss: torch.Tensor) -> None:
        torch.autograd.backward(loss)

    def clip_gradients(self, module: torch.nn.Module, optimiser: Any, **_: Any) -> torch.Tensor:
        # torch's own sorts gradients by where they really are.
        norms = [torch.linalg.vector_norm(each.grad) for each in module.parameters() if each.grad is not None]
        total: torch.Tensor = torch.linalg.vector_norm(torch.stack(norms))
        return total


def _pairs(grid: int, num_points: int) -> Any:
    from pseudoris.training.ppt.pairs import PairBatch, PseudoLabelBatch

    shape = (_PAIRS, _LABELS)
    labels = PseudoLabelBatch(
        masks=torch.ones(*shape, grid, grid),
        points_xy=torch.full((*shape, num_points, 2), 0.5),
        labels=torch.ones(*shape, num_points),
        confidences=torch.tensor([[1.0, 0.0]] * _PAIRS),
        counts=(_LABELS,) * _PAIRS,
    )
    images: list[torch.Tensor | None] = [
        torch.full((3, _SIDE_PX, _SIDE_PX), 50 * at, dtype=torch.uint8) for at in range(_PAIRS)
    ]
    return PairBatch([str(at) for at in range(_PAIRS)], images, ["a red star", "a cup"], labels)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the rows, write the JSON."""
    given = options(__doc__, arguments)
    print(f"{'part':<40} {'counted':>8} {'median':>8} {'most':>6}")
    rows = []
    for row in measure(given.precision):
        rows.append(row)
        print(f"{row.part:<40} {row.num_calls:>8} {row.median:>8g} {row.most:>6}", flush=True)
        for place, count in row.places.items() if given.places else ():
            print(f"    {count:>6}  {place}")
    write_json([asdict(row) for row in rows], given.json)


if __name__ == "__main__":
    main()
