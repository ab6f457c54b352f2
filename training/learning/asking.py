"""Held-out expressions, answered one by one and held against their masks in the pixels of their images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from training.dataset import ExpressionFilter, RisDataset, SampleSpec
from training.metrics import SegmentationFigures, SegmentationMeter


@dataclass(frozen=True, slots=True)
class Question:
    """Expressions of one image and the masks they refer to.

    Attributes:
        image_id: Of the image, in its run.
        image: (3, H, W) uint8.
        texts: (T).
        masks: (T, H, W) bool.
        mask_ids: (T), of each expression's mask.
        image_key: Tells the image from those of all runs.
    """

    image_id: str
    image: torch.Tensor
    texts: list[str]
    masks: torch.Tensor
    mask_ids: list[str]
    image_key: str


class Answerer(Protocol):
    """Whatever answers expressions with masks: a learner, or a floor."""

    def answer(self, question: Question) -> torch.Tensor:
        """Return a mask for each expression, (T, H, W) bool. The masks of the question are for the one who asks."""
        ...


class Questions:
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
        places: defaultdict[str, list[int]] = defaultdict(list)
        for at, mask in enumerate(self._dataset.mask_ids()):
            places[mask.rpartition("-")[0]].append(at)
        self._places = dict(places)
        self._keys = self._dataset.image_digests()

    @property
    def image_ids(self) -> list[str]:
        """The images that expressions are of, in the order of the plan."""
        return list(self._places)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._places)

    def of(self, image_ids: Sequence[str]) -> Iterator[Question]:
        """Yield the question of each image.

        Raises:
            ConfigError: An image cannot be used: a figure of fewer expressions would be of another set.
        """
        for image_id in image_ids:
            samples = self._dataset.__getitems__(self._places[image_id])
            texts = [text for sample in samples for text in sample["expressions"]]
            counts = torch.tensor([len(sample["expressions"]) for sample in samples])
            ids = [sample["mask_id"] for sample in samples for _ in sample["expressions"]]
            masks = torch.stack([sample["mask"] for sample in samples]).repeat_interleave(counts, 0)
            key = self._keys[self._places[image_id][0]]
            yield Question(image_id, samples[0]["image"], texts, masks, ids, key)


def ask(
    answerer: Answerer,
    questions: Questions,
    fabric: Fabric | None = None,
    *,
    on_image: Callable[[NDArray[np.float64]], None] = lambda ious: None,
) -> SegmentationMeter:
    """Return how an answerer does on all questions; split over the ranks of `fabric`, and the same on each of them.

    Args:
        answerer: Who is asked.
        questions: All of them.
        fabric: Of a training; None asks here alone.
        on_image: Told the IoU (T,) of the expressions of each image that this process asks, in the order of the images.
    """
    rank, world_size = (0, 1) if fabric is None else (fabric.global_rank, fabric.world_size)
    meter = SegmentationMeter()
    for question in questions.of(questions.image_ids[rank::world_size]):
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
