"""Masks and expressions of runs, by the settings `data`, in resumable batches. For `chooser`, `ppt`, experiments.

Batch n is always the same, on any number of processes and after a resume. A resume reads the commits that the first
start read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal, Protocol, Self

import torch
from lightning_fabric import Fabric
from pydantic import Field, model_validator
from torch.utils.data import DataLoader

from pseudoris.files.location import RunLocation
from pseudoris.interchange.dataset import (
    Draw,
    ExpressionFilter,
    JoinedDataset,
    MapDataset,
    MixedDataset,
    RisDataset,
    RisSample,
    SampleSpec,
    Snapshot,
)
from pseudoris.interchange.dataset.shard_reader import served_by
from pseudoris.primitives.counter_rng import draw_below, key_of, permutation
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.frozen import FrozenModel, UnitInterval
from pseudoris.schemas.keep_rule import LoneMasks
from pseudoris.schemas.run_records import RunHeader
from pseudoris.store.runs.header import require_header
from pseudoris.store.tables.image_bytes import is_of_others

# Maps the location of a run to its snapshot, as `Snapshot.state` gives it.
Snapshots = dict[str, Any]
Collate = Callable[[list[Any]], Any]
_CHANCE_STEPS: Final = 2**32


class DataConfig(FrozenModel):
    """Which expressions are trained on, and in what batches."""

    # A batch has this many images, each with up to `masks_per_image` of its masks. An epoch has every mask once.
    images_per_batch: int = Field(default=16, ge=1)
    masks_per_image: int = Field(default=6, ge=1)
    num_workers: int = Field(default=0, ge=0)
    # Maps the SOURCE that a run's header names to where its images are now. `--val` uses it too.
    moved: dict[str, str] = Field(default_factory=dict)
    # See `pseudoris.interchange.dataset.ExpressionFilter`. Human expressions pass all conditions on scores.
    tau: float | None = None
    is_kept_only: bool = True
    lone: LoneMasks | None = None
    decoders: tuple[str, ...] | None = None
    max_words: int | None = Field(default=None, ge=1)
    # See `SampleSpec`. None: as the Pseudo-RIS authors' loader (`pseudo_ris`), or by weight where `weighting` says so.
    # `distinct` never learns what the filter rejected: worse in docs/records/quality.md.
    draw: Draw | None = None
    # The column `weight` (of a fitted file; otherwise every weight is 1, and nothing changes) has these uses. loss: it
    # multiplies the loss of an expression. draw: expressions are drawn in proportion to it (`draw=weighted`), and masks
    # with the probability of their best expression. Set is_kept_only=false to learn from all candidates.
    weighting: Literal["none", "loss", "draw", "both"] = "none"
    # An epoch has this many expressions of each mask. A mask with fewer repeats them.
    expressions_per_mask: int = Field(default=1, ge=1)
    # If true, expressions get other words of the same meaning, new ones each epoch. Human expressions never do.
    rewording: bool = False
    # Whether several masks that an expression means together are learnt from too, and which share of the masks of an
    # epoch are expressions of no mask in their image: from these a student learns to answer "not here". A human import
    # that is mixed in gives what it has of both.
    groups: bool = False
    none: float = Field(default=0.0, ge=0, lt=1)
    # See `SampleSpec.split`. None takes `train` of runs that have splits.
    split: str | None = None
    # These images are left out, of human annotation too: values of `--exclude`. See docs/guides/data-set.md.
    exclude: tuple[str, ...] = ()
    # This share of the masks of the human annotation is used, if human annotation is given.
    human_fraction: UnitInterval = 1.0
    # This share of an epoch's items is human. None takes each used human mask once.
    human_share: float | None = Field(default=None, ge=0, lt=1)

    @model_validator(mode="after")
    def _has_one_draw(self) -> Self:
        if self.draws_by_weight and self.draw not in (None, "weighted"):
            raise ValueError(f"weighting={self.weighting} and draw={self.draw} exclude each other: each is a draw")
        return self

    @property
    def draws_by_weight(self) -> bool:
        """Whether weights decide how often masks and expressions come."""
        return self.weighting in ("draw", "both")

    def decisive(self) -> dict[str, Any]:
        """Return what decides the weights, as JSON."""
        tree, spec = self.model_dump(mode="json", exclude={"num_workers", "moved"}), self.spec(seed=0)
        # A setting that is off is left out, because older trainings had neither: equal settings must stay equal.
        tree = {name: value for name, value in tree.items() if value or name not in ("groups", "none", "split")}
        # Rules are identified by their content, not by the paths of their files.
        return {**tree, "draw": spec.draw, "exclude": spec.as_json()["exclude"]}

    def spec(self, seed: int) -> SampleSpec:
        """Return the samples of a run for training: each mask, with one of its expressions per epoch."""
        where = ExpressionFilter(
            tau=self.tau,
            is_kept_only=self.is_kept_only,
            lone=self.lone,
            decoders=None if self.decoders is None else frozenset(self.decoders),
            words=(None, self.max_words),
        )
        return SampleSpec(
            parts=("mask", "text", "scores") if self.weighting in ("loss", "both") else ("mask", "text"),
            where=where,
            draw=self.draw or ("weighted" if self.draws_by_weight else "pseudo_ris"),
            expressions_per_mask=self.expressions_per_mask,
            rewording=self.rewording,
            groups=self.groups,
            none=self.none,
            split=self.split,
            exclude=self.exclude,
            seed=seed,
            source=self.moved,
        )


def check_moved(moved: Mapping[str, str], runs: Iterable[str]) -> None:
    """Accept `data.moved` of a training on `runs`; ConfigError for a name that none of them has, if some have names."""
    headers = [require_header(RunLocation.open(run)) for run in runs] if moved else []
    names = dict.fromkeys(each.name for header in headers for each in header.runs if each.name)
    for given in moved if names else ():
        if all(is_of_others(given, header) for header in headers):
            known = ", ".join(names)
            raise ConfigError(f"data.moved: there are no images {given!r} to be moved: the runs have the names {known}")


def moved_of(moved: Mapping[str, str], header: RunHeader) -> dict[str, str]:
    """Return what `data.moved` says of a run: all but the names of others."""
    return {given: new for given, new in moved.items() if not is_of_others(given, header)}


def open_runs(
    runs: Sequence[str], human: str | None, data: DataConfig, *, seed: int, snapshots: Snapshots | None = None
) -> tuple[MapDataset, MapDataset, Snapshots]:
    """Return masks and texts to learn from, the images of the same items, and the commits that they cover of each run.

    `human` is an import to mix in, None for none. `snapshots` are those of an earlier start, to read the same again.
    """
    spec = data.spec(seed)
    taken: Snapshots = {}

    def of_run(run: str, spec: SampleSpec, *, is_human: bool = False) -> RisDataset:
        location = RunLocation.open(run)
        state = (snapshots or taken).get(location.root)
        if snapshots is not None and state is None:
            raise ConfigError(f"The training did not read {location.root} before. Resume it with the same runs.")
        snapshot = None if state is None else Snapshot.from_state(location, state)
        header = require_header(location)
        if is_human and header.origin != "import" and not header.is_human:
            raise ConfigError(f"--human {location.root} is no human annotation. Give the OUT of `pseudoris import`.")
        # The splits that `data.split` names are those of the runs: an import without them is learnt from as a whole.
        spec = replace(spec, split=None) if is_human and header.splits is None else spec
        own = served_by(location, spec, snapshot) if is_human else spec
        own = replace(own, source=moved_of(data.moved, header))
        dataset = RisDataset(location, own, snapshot=snapshot)
        taken[location.root] = dataset.snapshot.state()
        return dataset

    def opened(spec: SampleSpec) -> MapDataset:
        datasets = [of_run(run, spec) for run in runs]
        own = datasets[0] if len(datasets) == 1 else JoinedDataset(datasets)
        if human is None:
            return own
        # Human expressions have no scores, so they pass all conditions on scores.
        plain = replace(spec.where, is_kept_only=True, tau=None, lone="keep", decoders=None)
        annotation = of_run(human, replace(spec, where=plain, draw="distinct"), is_human=True)
        return MixedDataset(own, annotation, fraction=data.human_fraction, human_share=data.human_share, seed=seed)

    return opened(spec), opened(replace(spec, parts=("image",))), taken


class EpochDataset(Protocol):
    """A map-style dataset whose items have epochs."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's items."""

    def image_keys(self) -> list[str]:
        """Return the image of every item of the epoch."""


class ResumableFeed:
    """Batches of units, a unit being a few masks of one image: features of an image are then computed once.

    An epoch holds every item once, each image's masks in units of at most `masks_per_unit`. The last batch of an epoch
    is filled up with its first units, so that all batches and ranks are even.
    """

    def __init__(
        self,
        dataset: EpochDataset,
        collate: Collate,
        *,
        units_per_batch: int,
        masks_per_unit: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        chances: Sequence[float] | None = None,
    ) -> None:
        """Take a dataset; `units_per_batch` counts the units of all ranks, whose number then changes no batch.

        `chances` (N,) is the probability that an epoch has an item; None takes all.
        """
        if units_per_batch % world_size:
            raise ConfigError(
                f"A batch of {units_per_batch} images cannot be split over {world_size} processes. Make it a "
                f"multiple of {world_size}."
            )
        self._dataset, self._collate, self._num_workers = dataset, collate, num_workers
        self._units_per_batch, self._masks_per_unit, self._seed = units_per_batch, masks_per_unit, seed
        self._rank, self._world_size = rank, world_size
        self._limits = None if chances is None else [round(each * _CHANCE_STEPS) for each in chances]

    def num_batches(self, epoch: int = 0) -> int:
        """Return the batches of an epoch."""
        return len(self._epoch(epoch))

    def batches(self, first: int) -> Iterator[Any]:
        """Yield batch `first`, `first` + 1, … of this rank, without end."""
        epoch = 0
        while True:
            # The epoch decides which human masks a mixed dataset has, so it is set before the batches are made.
            self._dataset.set_epoch(epoch)
            own = self._epoch(epoch)
            if first < len(own):
                # torch needs only the items of a dataset, not its class, so the type error is ignored.
                loader: DataLoader[Any] = DataLoader(
                    self._dataset,  # type: ignore[arg-type]
                    batch_sampler=own[first:],
                    collate_fn=self._collate,
                    num_workers=self._num_workers,
                )
                yield from loader
            first = max(first - len(own), 0)
            epoch += 1

    def _epoch(self, epoch: int) -> list[list[int]]:
        by_image: defaultdict[str, list[int]] = defaultdict(list)
        key = key_of("chance", self._seed, epoch)
        for item, image in enumerate(self._dataset.image_keys()):
            if self._limits is None or draw_below(key, item, _CHANCE_STEPS) < self._limits[item]:
                by_image[image].append(item)
        units: list[list[int]] = []
        for image, items in by_image.items():
            shuffled = permutation(key_of("masks", self._seed, epoch, image), len(items)).tolist()
            parts = [shuffled[at : at + self._masks_per_unit] for at in range(0, len(items), self._masks_per_unit)]
            units += [[items[at] for at in part] for part in parts]
        order = permutation(key_of("units", self._seed, epoch), len(units)).tolist()
        size = self._units_per_batch
        order += [order[at % len(order)] for at in range(-len(order) % size)]
        return [
            [item for unit in order[at + self._rank : at + size : self._world_size] for item in units[unit]]
            for at in range(0, len(order), size)
        ]


def loss_weights(sample: RisSample) -> list[float]:
    """Return how much the loss of each expression of a sample counts: its `weight`, or 1 without the part `scores`."""
    scores = sample.get("scores")
    return [1.0] * len(sample["expressions"]) if scores is None else scores["weight"].tolist()


def open_feed(
    data: EpochDataset, collate: Collate, config: DataConfig, fabric: Fabric, *, targets: MapDataset, seed: int
) -> ResumableFeed:
    """Return the batches of this process from a learner's dataset over `targets`."""
    return ResumableFeed(
        data,
        collate,
        units_per_batch=config.images_per_batch,
        masks_per_unit=config.masks_per_image,
        seed=seed,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        num_workers=config.num_workers,
        chances=targets.best_weights().tolist() if config.draws_by_weight else None,
    )


def weighted_mean(losses: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Return the mean of losses (T, …), weighted by (T,) of at least 0; for equal weights, or none, the plain mean."""
    if weights is None:
        return losses.mean()
    relative = weights / weights.mean().clamp(min=torch.finfo(weights.dtype).tiny)
    return (losses * relative.view(-1, *[1] * (losses.ndim - 1))).mean()
