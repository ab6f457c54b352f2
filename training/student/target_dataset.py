"""A run's masks and expressions as the student takes them: image in its square, mask at the size of predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import Dataset
from torchvision.transforms.v2.functional import resize

from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import RunLocation
from pseudoris.training.dataset import JoinedDataset, MixedDataset, RisDataset, RisSample, SampleSpec, Snapshot
from pseudoris.training.student.student_config import DataConfig
from pseudoris.workers.crops.crops import CropFormat

# As `Snapshot.state` gives it, by the run's place.
Snapshots = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Placement:
    """The position of an image of H × W in the square: scaled to fit, in the middle, as CRIS does.

    Attributes:
        size: (H, W) of the image in pixels.
        inner: (h, w) that it is scaled to.
        top: Rows above it.
        left: Columns left of it.
        side: Side of the square.
    """

    size: tuple[int, int]
    inner: tuple[int, int]
    top: int
    left: int
    side: int

    @classmethod
    def of(cls, size: tuple[int, int], side: int) -> Placement:
        """Return the position of an image of a size."""
        scale = side / max(size)
        inner = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
        return cls(size, inner, (side - inner[0]) // 2, (side - inner[1]) // 2, side)

    def image(self, image: torch.Tensor, fill: tuple[float, ...]) -> torch.Tensor:
        """Return an image (3, H, W) uint8 in its square (3, S, S) uint8; `fill` in [0, 1] is the value around it."""
        colour = torch.tensor([round(255 * each) for each in fill], dtype=torch.uint8)
        square = colour[:, None, None].repeat(1, self.side, self.side)
        scaled = image if self.inner == self.size else resize(image, list(self.inner), antialias=True)
        square[:, self.top : self.top + self.inner[0], self.left : self.left + self.inner[1]] = scaled
        return square

    def mask(self, mask: torch.Tensor, mask_size: int) -> torch.Tensor:
        """Return which share of each pixel of a smaller square a mask (H, W) bool covers, (m, m) float32."""
        share = mask[None].float()
        scaled = share if self.inner == self.size else resize(share, list(self.inner), antialias=True)
        square = torch.zeros(1, self.side, self.side)
        square[:, self.top : self.top + self.inner[0], self.left : self.left + self.inner[1]] = scaled
        return F.adaptive_avg_pool2d(square, mask_size)[0]

    def back(self, logits: torch.Tensor) -> torch.Tensor:
        """Return logits (T, m, m) on the pixels of the image, (T, H, W)."""
        square = _scaled(logits, (self.side, self.side))
        inner = square[:, self.top : self.top + self.inner[0], self.left : self.left + self.inner[1]]
        return inner if self.inner == self.size else _scaled(inner, self.size)


def _scaled(values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(values[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


@dataclass(frozen=True, slots=True)
class Target:
    """A mask and an expression of it.

    Attributes:
        image_key: Identifies its image among those of all runs.
        pixels: (3, S, S) uint8; None where the towers hold its features and the learner its pixels.
        mask: (m, m) float32 in [0, 1], shares of each pixel.
        text: The expression.
        weight: How much its loss counts.
    """

    image_key: str
    pixels: torch.Tensor | None
    mask: torch.Tensor
    text: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class TargetBatch:
    """Masks of some images, each image once.

    Attributes:
        image_keys: (U).
        pixels: (U) of (3, S, S) uint8, or None where they are held.
        owners: (T,) int64, the image of each mask.
        masks: (T, m, m) float32.
        texts: (T).
        weights: (T,) float32.
    """

    image_keys: list[str]
    pixels: list[torch.Tensor | None]
    owners: torch.Tensor
    masks: torch.Tensor
    texts: list[str]
    weights: torch.Tensor

    def __len__(self) -> int:
        """Return the number of masks."""
        return len(self.texts)


def collate(targets: Sequence[Target]) -> TargetBatch:
    """Return targets as a batch."""
    places: dict[str, int] = {}
    pixels: list[torch.Tensor | None] = []
    for each in targets:
        if each.image_key not in places:
            places[each.image_key] = len(places)
            pixels.append(each.pixels)
    return TargetBatch(
        image_keys=list(places),
        pixels=pixels,
        owners=torch.tensor([places[each.image_key] for each in targets]),
        masks=torch.stack([each.mask for each in targets]),
        texts=[each.text for each in targets],
        weights=torch.tensor([each.weight for each in targets], dtype=torch.float32),
    )


def loss_weights(sample: RisSample) -> list[float]:
    """Return how much the loss of each expression of a sample counts: its `weight`, or 1 without the part `scores`."""
    scores = sample.get("scores")
    return [1.0] * len(sample["expressions"]) if scores is None else scores["weight"].tolist()


MapDataset = RisDataset | JoinedDataset | MixedDataset


class TargetDataset(Dataset[Target]):
    """The masks of runs, and of a human's import, an expression each; images only where they are not held yet.

    It wraps two datasets of the same order: masks and texts, which every epoch reads, and images.
    """

    def __init__(
        self,
        targets: MapDataset,
        images: MapDataset,
        *,
        image_format: CropFormat,
        mask_size: int,
        is_held: Callable[[str], bool] = lambda image_key: False,
    ) -> None:
        """Take two datasets of the same items.

        Args:
            targets: With the parts `mask` and `text`; with `scores`, weights multiply losses.
            images: With the part `image`.
            image_format: Image format of the towers.
            mask_size: Side of the masks.
            is_held: Whether an image need not be read any more.
        """
        self._targets, self._images = targets, images
        self._format, self._mask_size, self._is_held = image_format, mask_size, is_held
        self._keys = images.image_digests()

    def __len__(self) -> int:
        """Return the number of masks."""
        return len(self._targets)

    def set_epoch(self, epoch: int) -> None:
        """Choose the expressions, and which human masks repeat."""
        self._targets.set_epoch(epoch)
        self._images.set_epoch(epoch)
        self._keys = self._images.image_digests()

    def image_keys(self) -> list[str]:
        """Return the image of every item of the epoch."""
        return self._keys

    def __getitem__(self, index: int) -> Target:
        """Return an item.

        Raises:
            ConfigError: Its image cannot be used.
        """
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Target]:
        """Return the items of a batch; an image is decoded at most once."""
        drawn = self._targets.__getitems__(indices)
        seen: dict[str, torch.Tensor | None] = {}
        keys = [self._keys[index] for index in indices]
        for index, key in zip(indices, keys, strict=True):
            if key not in seen:
                seen[key] = self._pixels(index, key)
        return [self._target(sample, key, seen[key]) for sample, key in zip(drawn, keys, strict=True)]

    def _pixels(self, index: int, key: str) -> torch.Tensor | None:
        if self._is_held(key):
            return None
        image: torch.Tensor = self._images[index]["image"]
        placement = Placement.of((image.shape[1], image.shape[2]), self._format.size)
        return placement.image(image, self._format.mean)

    def _target(self, sample: Any, key: str, pixels: torch.Tensor | None) -> Target:
        mask: torch.Tensor = sample["mask"]
        placement = Placement.of((mask.shape[0], mask.shape[1]), self._format.size)
        (text,), (weight,) = sample["expressions"], loss_weights(sample)
        return Target(key, pixels, placement.mask(mask, self._mask_size), text, weight)


def open_runs(
    runs: Sequence[str], human: str | None, data: DataConfig, *, seed: int, snapshots: Snapshots | None = None
) -> tuple[MapDataset, MapDataset, Snapshots]:
    """Return masks and texts to learn from, the images of the same items, and the commits that they cover of each run.

    Args:
        runs: Folders or urls of runs, at least one.
        human: An import to mix in; None for none.
        data: Which expressions.
        seed: Seed of the draws.
        snapshots: Snapshots of an earlier start, to read the same again.

    Raises:
        ConfigError: A run is missing or empty, or gives no sample.
        TransientError: Storage failed.
    """
    spec = data.spec(seed)
    taken: Snapshots = {}

    def opened(spec: SampleSpec) -> MapDataset:
        datasets = [_open(run, spec, snapshots, taken) for run in runs]
        own = datasets[0] if len(datasets) == 1 else JoinedDataset(datasets)
        if human is None:
            return own
        # A human's expressions were never judged: they pass all conditions on scores.
        plain = replace(spec.where, is_kept_only=True, tau=None, lone="keep", decoders=None)
        annotation = _open(human, replace(spec, where=plain, draw="distinct"), snapshots, taken)
        return MixedDataset(own, annotation, fraction=data.human_fraction, human_share=data.human_share, seed=seed)

    return opened(spec), opened(replace(spec, parts=("image",))), taken


def _open(run: str, spec: SampleSpec, snapshots: Snapshots | None, taken: Snapshots) -> RisDataset:
    location = RunLocation.open(run)
    state = (snapshots or taken).get(location.root)
    if snapshots is not None and state is None:
        raise ConfigError(f"The training did not read {location.root} before. Resume it with the same runs.")
    snapshot = None if state is None else Snapshot.from_state(location, state)
    dataset = RisDataset(location, spec, snapshot=snapshot)
    taken[location.root] = dataset.snapshot.state()
    return dataset
