"""Evaluates a learner on held-out expressions: each answer is compared with the mask in the pixels of its image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from pseudoris.training.dataset import ExpressionFilter, RisDataset, SampleSpec
from pseudoris.training.metrics import SegmentationFigures, SegmentationMeter


@dataclass(frozen=True, slots=True)
class ImageQuestion:
    """Expressions of one image and the masks they refer to.

    Attributes:
        image_id: Id of the image in its run.
        image: (3, H, W) uint8.
        texts: (T).
        masks: (T, H, W) bool.
        mask_ids: (T), of each expression's mask.
        image_key: Identifies the image among those of all runs.
    """

    image_id: str
    image: torch.Tensor
    texts: list[str]
    masks: torch.Tensor
    mask_ids: list[str]
    image_key: str


class Answerer(Protocol):
    """Predicts masks for expressions: a learner, or a baseline."""

    def answer(self, question: ImageQuestion) -> torch.Tensor:
        """Return a mask for each expression, (T, H, W) bool, without using the masks of the question."""
        ...


class HeldOutExpressions:
    """Every kept expression of a run or an import, image by image."""

    def __init__(self, run: str, moved: Mapping[str, str] | None = None) -> None:
        """Open a run.

        Args:
            run: Its folder or url.
            moved: As `SampleSpec.source`.

        Raises:
            ConfigError: There is none, or no expression of it is kept.
            TransientError: Storage failed.
        """
        every = ExpressionFilter()
        spec = SampleSpec(parts=("image", "mask", "text"), where=every, expressions_per_mask=None, source=moved)
        self._dataset = RisDataset(run, spec)
        masks_of: defaultdict[str, list[int]] = defaultdict(list)
        for at, mask in enumerate(self._dataset.mask_ids()):
            masks_of[mask.rpartition("-")[0]].append(at)
        self._masks_of = dict(masks_of)
        self._keys = self._dataset.image_digests()

    @property
    def image_ids(self) -> list[str]:
        """The images that have expressions, in the order of the plan."""
        return list(self._masks_of)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._masks_of)

    def of(self, image_ids: Sequence[str]) -> Iterator[ImageQuestion]:
        """Yield the question of each image.

        Raises:
            ConfigError: An image cannot be used: figures over fewer expressions would not be comparable.
        """
        for image_id in image_ids:
            samples = self._dataset.__getitems__(self._masks_of[image_id])
            texts = [text for sample in samples for text in sample["expressions"]]
            counts = torch.tensor([len(sample["expressions"]) for sample in samples])
            ids = [sample["mask_id"] for sample in samples for _ in sample["expressions"]]
            masks = torch.stack([sample["mask"] for sample in samples]).repeat_interleave(counts, 0)
            key = self._keys[self._masks_of[image_id][0]]
            yield ImageQuestion(image_id, samples[0]["image"], texts, masks, ids, key)


def evaluate(
    answerer: Answerer,
    held_out: HeldOutExpressions,
    fabric: Fabric | None = None,
    *,
    on_image: Callable[[NDArray[np.float64]], None] = lambda ious: None,
) -> SegmentationMeter:
    """Return the meter of an answerer on all held-out expressions, the same on each rank of `fabric`.

    Args:
        answerer: What is evaluated.
        held_out: The expressions; they are split over the ranks.
        fabric: The training's fabric; None evaluates in this process alone.
        on_image: Called for each image of this process, in order, with the IoU (T,) of its expressions.
    """
    rank, world_size = (0, 1) if fabric is None else (fabric.global_rank, fabric.world_size)
    meter = SegmentationMeter()
    for question in held_out.of(held_out.image_ids[rank::world_size]):
        on_image(meter.add(answerer.answer(question), question.masks))
    return meter if fabric is None or world_size == 1 else _gathered(meter, fabric)


def named_figures(figures: SegmentationFigures) -> dict[str, float]:
    """Return the figures that a training logs, by name."""
    named = {"miou": figures.miou, "oiou": figures.oiou}
    return named | {f"p{round(100 * at)}": value for at, value in figures.precision.items()}


def _gathered(meter: SegmentationMeter, fabric: Fabric) -> SegmentationMeter:
    """Return one meter of all ranks, by rank."""
    own = torch.from_numpy(meter.rows())
    counts = _all(torch.tensor([len(own)]), fabric).flatten().tolist()
    padded = torch.zeros(max(counts), 4, dtype=torch.int64)
    padded[: len(own)] = own
    together = _all(padded, fabric).cpu().numpy()
    whole = SegmentationMeter()
    for count, rows in zip(counts, together, strict=True):
        whole.add_rows(np.asarray(rows[:count], np.int64))
    return whole


def _all(values: torch.Tensor, fabric: Fabric) -> torch.Tensor:
    """Return the values of every rank, stacked."""
    gathered = fabric.all_gather(values.to(fabric.device))
    if not isinstance(gathered, torch.Tensor):
        raise TypeError(f"a tensor was gathered as {type(gathered).__name__}")
    return gathered
