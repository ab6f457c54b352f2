"""Asks a model the kept expressions of a run, and compares each answer with the mask.

For `cli`, `training`, examples, experiments. Each image counts once. An answer never uses the masks of its question.
What answers share with their truth, images or models, is said before any figure. `train` writes what a training learnt
from beside its checkpoint, where `evaluate --model` reads it; what is not recorded is called unknown, never clean.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, Self

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from pseudoris.files.location import RunLocation
from pseudoris.interchange.dataset import SampleSpec
from pseudoris.interchange.dataset.image_reader import ShardImages
from pseudoris.interchange.dataset.shard_reader import DatasetRun
from pseudoris.primitives import rle
from pseudoris.primitives.errors import ConfigError, ImageError, TransientError
from pseudoris.primitives.untrusted import parse_json, read_regular
from pseudoris.schemas.config import ImagesConfig, RunConfig
from pseudoris.schemas.tables import IMAGES
from pseudoris.store.runs.copied_pictures import NearHashes, hash_bits
from pseudoris.store.runs.header import require_header
from pseudoris.store.tables.open_run import CommittedShard, OpenRun, Row
from pseudoris.training.evaluation.run_images import CommittedImage, images_of, joined_tables
from pseudoris.training.learning.checkpoint_folder import TrainingFolder
from pseudoris.training.learning.training_data import moved_of
from pseudoris.training.metrics import PRECISION_AT, figures_of, ious_of, pixel_counts
from pseudoris.workers.stages import STAGE_FILTER, STAGE_PROPOSE, clip_digest, sam_digest

TRAINED_ON_NAME: Final = "trained_on.json"
_COLUMNS: Final = ("text", "target_mask_ids", "kind", "kept", "split")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ImageQuestion:
    """T expressions of one image (3, H, W) uint8, and the masks (T, H, W) bool they refer to.

    `mask_ids` (T) are those of each expression's first mask; `image_key` identifies the image among those of all runs.
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


@dataclass(frozen=True, slots=True)
class AskedImage:
    """An image of `size` (H, W), upright, and the T expressions that are asked of it.

    Attributes:
        targets: (T), ids of the masks of each: none, one or several.
        splits: (T), "" where the run has none.
        counts: COCO compressed RLE by mask id.
        encoded: Its shard's encoded images, and its position there.
    """

    image_id: str
    key: str
    size: tuple[int, int]
    texts: list[str]
    targets: list[list[str]]
    kinds: list[str]
    splits: list[str]
    counts: Mapping[str, str]
    encoded: tuple[ShardImages, int]

    def masks(self) -> torch.Tensor:
        """Return the union of the masks of each expression, (T, H, W) bool; empty of one without a target."""
        found = np.zeros((len(self.texts), *self.size), np.bool_)
        for row, targets in enumerate(self.targets):
            if targets:
                found[row] = rle.decode([self.counts[target] for target in targets], self.size).any(0)
        return torch.from_numpy(found)


class HeldOutExpressions:
    """Kept expressions of a run or an import, image by image; its tables are held in memory.

    Attributes:
        root: Where the run lives.
        images: Those that have expressions, in the order of the plan.
        notes: What of the run is not asked though it was planned.
    """

    def __init__(
        self,
        run: str,
        moved: str | Mapping[str, str] | None = None,
        *,
        splits: Sequence[str] = (),
        has_groups: bool = False,
        reads_images: bool = True,
    ) -> None:
        """Open a run (folder or url); `moved` as `SampleSpec.source`; with `reads_images` a question has its image.

        Expressions of `splits` are asked, all by default; with `has_groups` those of several masks, and of none, too.
        """
        spec = SampleSpec(parts=("image",), split="all", source=moved)
        opened = DatasetRun.open(run, spec, is_random_access=True)
        if opened.images is None:
            raise ValueError("a spec with images opens them")
        self._bytes, self._reads_images = opened.images, reads_images
        self.root = opened.location.root
        committed = OpenRun.at(opened.location, opened.snapshot.commits())
        shards = list(committed.shards())
        there: Counter[str] = Counter()

        def is_asked(row: Row) -> bool:
            return (not splits or row["split"] in splits) and (has_groups or len(row["target_mask_ids"]) == 1)

        self.images = [each for shard in shards for each in self._read(shard, there, is_asked)]
        left_out = {
            "shards of the truth are not committed": opened.header.num_shards - len(shards),
            "images of the truth are quarantined": sum(each.receipt.counts.quarantined for each in shards),
        }
        self.notes = [f"{num:,} {what}: their expressions are not asked." for what, num in left_out.items() if num]
        absent = [split for split in splits if split not in there]
        if absent:
            named = ", ".join(f"{name or 'no split'} ({count:,})" for name, count in sorted(there.items())) or "none"
            raise ConfigError(
                f"{self.root} has no expression of split {absent[0]!r}. It has {named}. Import the split "
                "(`pseudoris import --split`), hold it out (`pseudoris combine --hold-out`, of few images a larger "
                "share), or leave it out."
            )
        if not self.images:
            raise ConfigError(f"No expression of {self.root} is kept, so there is nothing to ask.")

    @classmethod
    def for_validation(
        cls, run: str | None, moved: Mapping[str, str], *, has_groups: bool = False
    ) -> HeldOutExpressions | None:
        """Open the run that a training is validated on, None without one: its split `val`, if it has splits."""
        if run is None:
            return None
        header = require_header(RunLocation.open(run))
        splits = () if header.splits is None else ("val",)
        return cls(run, moved_of(moved, header), splits=splits, has_groups=has_groups)

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[ImageQuestion]:
        return map(self.question, self.images)

    def image_digests(self) -> frozenset[str]:
        """Return the sha256 of the images that are asked."""
        return frozenset(images.sha256[at] for images, at in (image.encoded for image in self.images))

    def question(self, image: AskedImage) -> ImageQuestion:
        """Return the question of an image; its pixels are (3, 0, 0) if they are not read.

        One that cannot be used is refused: figures over fewer expressions would not be comparable.
        """
        images, at = image.encoded
        pixels = self.pixels(image) if self._reads_images else torch.zeros((3, 0, 0), dtype=torch.uint8)
        ids = [targets[0] if targets else "" for targets in image.targets]
        return ImageQuestion(image.image_id, pixels, image.texts, image.masks(), ids, images.sha256[at])

    def pixels(self, image: AskedImage) -> torch.Tensor:
        """Return an image, (3, H, W) uint8; ConfigError if it cannot be used."""
        try:
            return self._bytes.decode(*image.encoded)
        except ImageError as error:
            raise self._bytes.explained(image.key, error) from error

    def _read(
        self, shard: CommittedShard, there: Counter[str], is_asked: Callable[[Row], bool]
    ) -> Iterator[AskedImage]:
        """Yield the images of a shard that are asked something; `there` gets the splits of all its kept rows."""
        joined = joined_tables(shard, *_COLUMNS, images=self._bytes.columns)
        found: dict[int, tuple[CommittedImage, list[Row]]] = {}
        for place, image in enumerate(images_of(joined)):
            kept = [{**row, "split": row["split"] or ""} for row in image.expressions.to_pylist() if row["kept"]]
            there.update(row["split"] for row in kept)
            if asked := [row for row in kept if is_asked(row)]:
                found[place] = image, asked
        if not found:
            return
        encoded = self._bytes.of_shard(shard.receipt.shard, joined.images.take(list(found)))
        for at, (image, asked) in enumerate(found.values()):
            names = ("text", "target_mask_ids", "kind", "split")
            texts, targets, kinds, splits = ([row[name] for row in asked] for name in names)
            counts = dict(zip(image.mask_ids, image.mask_counts, strict=True))
            yield AskedImage(
                image.image_id, image.key, image.size, texts, targets, kinds, splits, counts, (encoded, at)
            )


def held_out_figures(
    answer: Callable[[ImageQuestion], torch.Tensor],
    held_out: HeldOutExpressions,
    fabric: Fabric | None = None,
    *,
    on_image: Callable[[NDArray[np.float64]], None] = lambda ious: None,
) -> dict[str, float]:
    """Return the figures that a training logs, by name, of answers to all held-out expressions.

    Where some have no target, GRES's figures are among them (`figures_of`): `giou`, `n_acc` and `t_acc`. The images are
    split over the ranks of `fabric`; each rank gets the same figures. `on_image` is called for each image of this
    process, in order, with the IoU (T,) of its expressions.
    """
    rank, world_size = (0, 1) if fabric is None else (fabric.global_rank, fabric.world_size)
    parts = [np.zeros((0, 4), np.int64)]
    for image in held_out.images[rank::world_size]:
        question = held_out.question(image)
        parts.append(pixel_counts(answer(question), question.masks))
        on_image(ious_of(parts[-1]))
    rows = np.concatenate(parts)
    if fabric is not None and world_size > 1:
        counts = of_all_ranks(torch.tensor([len(rows)]), fabric).flatten().tolist()
        padded = torch.zeros(max(counts), 4, dtype=torch.int64)
        padded[: len(rows)] = torch.from_numpy(rows)
        gathered = of_all_ranks(padded, fabric).cpu().numpy()
        rows = np.concatenate([each[:count] for count, each in zip(counts, gathered, strict=True)])
    found = figures_of(rows)
    names = {"giou": "giou", "n_acc": "no_target_accuracy", "t_acc": "target_accuracy"}
    has_absent = bool(len(rows)) and not rows[:, 3].all()
    return {
        **{name: found[name] for name in ("miou", "oiou")},
        **{f"p{round(100 * at)}": found[f"p@{at}"] for at in PRECISION_AT},
        **({name: found[each] for name, each in names.items()} if has_absent else {}),
    }


def of_all_ranks(values: torch.Tensor, fabric: Fabric) -> torch.Tensor:
    """Return the values of every rank, stacked."""
    gathered = fabric.all_gather(values.to(fabric.device))
    if not isinstance(gathered, torch.Tensor):
        raise TypeError(f"a tensor was gathered as {type(gathered).__name__}")
    return gathered


@dataclass(frozen=True, slots=True)
class Origin:
    """What answers rest on: sha256 of the images that were learnt from, and of models; None where it is not known.

    Of a tile it has that of its picture too. `hashes` are the perceptual hashes of these, "" where tables have none.
    What frozen models have seen elsewhere does not count.
    """

    images: frozenset[str] | None = None
    models: frozenset[str] | None = None
    hashes: frozenset[str] = frozenset()

    @classmethod
    def read(cls, model: Path) -> Self:
        """Return that of a training's folder or checkpoint, or of a round of PPT; not known where no file tells it."""
        for tree in _told(model):
            with suppress(LookupError, TypeError):
                found = (tree["images"], tree["models"], tree.get("hashes", ("",)))
                return cls(*(None if each is None else frozenset(each) for each in found))  # type: ignore[arg-type]
        return cls()


def _told(model: Path) -> Iterator[dict[str, Any]]:
    """Yield what a training, or a round of PPT and then its training, wrote of what it learnt from."""
    folder = model if model.is_dir() else model.parent
    for place in (folder, folder.parent):
        with suppress(OSError, ValueError):
            yield dict(parse_json(read_regular(place / TRAINED_ON_NAME)))


def pixels_of(model: Path) -> ImagesConfig:
    """Return how deep samples became 8 bits in the first run that a model learnt from: `stored` where it is unknown."""
    for tree in _told(model):
        with suppress(LookupError, ValueError, TypeError):
            return ImagesConfig.model_validate(tree["pixels"]).to_show()
    return ImagesConfig()


def begin_validation(
    images: Iterable[str],
    runs: Iterable[str],
    frozen: Iterable[str],
    held_out: HeldOutExpressions | None,
    folder: TrainingFolder,
    fabric: Fabric,
) -> list[str]:
    """Write what a training learns from into its folder, and return and log what it shares with its validation.

    `images` are the sha256 of what is learnt from, `frozen` those of the models in the training. The models that made
    the `runs` count too, and how the first one decodes is written. Every rank calls this; the first alone writes and
    logs.
    """
    runs, learnt = list(runs), frozenset(images)
    teachers = [models_of(RunLocation.open(run)) for run in runs]
    pictures = [row for run in runs for row in _pictures(run, learnt)]
    origin = Origin(
        learnt.union(row["picture_sha256"] for row in pictures if row["picture_sha256"]),
        None if None in teachers else frozenset(frozen).union(*(each.values() for each in teachers if each)),
        frozenset(row["phash"] or "" for row in pictures),
    )
    shared = [] if held_out is None else circularity(origin, held_out)
    if fabric.is_global_zero:
        pixels, *others = (each.config.images for run in runs for each in require_header(RunLocation.open(run)).runs)
        if any(other.to_show() != pixels.to_show() for other in others):
            logger.warning(
                "The runs differ in images.bits or images.window. `predict` reads pictures as the first one: bits %s, "
                "window %s.",
                *(pixels.bits, pixels.window),
            )
        learnt_from = {name: getattr(origin, name) for name in Origin.__slots__}
        tree: dict[str, Any] = {name: None if each is None else sorted(each) for name, each in learnt_from.items()}
        tree["pixels"] = pixels.model_dump(mode="json", include={"bits", "window"})
        folder.write_json(TRAINED_ON_NAME, tree)
        for note in shared:
            logger.warning("%s", note)
    return shared


def digests_of(run: RunConfig) -> frozenset[str]:
    """Return the sha256 of the SAM and the CLIP of a run's settings, as runs of the same models have them."""
    masks = run.masks.model_copy(update={"prior": type(run.masks.prior)()})
    return frozenset((sam_digest(masks), clip_digest(run.filtering.model_copy(update={"nouns": "rules"}))))


def models_of(location: RunLocation) -> dict[str, str] | None:
    """Return the sha256 of the models that made a run, by stage; {} of human annotation, None where it is not known.

    A recipe of PPT has those of its parent too, a combined run those of all its runs. "" stands for a digest that is
    over more than the weights, with an instance prior or a parser of nouns.
    """
    try:
        header = require_header(location)
        above = header.parent if header.origin == "ppt" else None
        found = {} if above is None else models_of(RunLocation.open_to_read(above.location))
    except (ConfigError, TransientError):
        return None
    if header.is_human:
        return {}
    for run in header.runs:
        config, several = run.config, f" ({run.name})" if len(header.runs) > 1 else ""
        is_more = {STAGE_PROPOSE: config.masks.prior.path is not None, STAGE_FILTER: config.filtering.nouns != "rules"}
        weights = run.identity.weights.items()
        own = {f"{stage}{several}": "" if is_more.get(stage) else digest for stage, digest in weights}
        if found is None or not (own or run.is_human or above):
            return None
        found |= own
    return found or None


def _pictures(run: str, images: frozenset[str]) -> list[Row]:
    """Return sha256 and perceptual hash of some images of a run, by their sha256, and of what they are tiles of."""
    columns = ("sha256", "picture_sha256", "phash", "picture_phash")
    rows = OpenRun.at(RunLocation.open(run)).table(IMAGES, columns).to_pylist()
    return [{**row, "phash": row["picture_phash"] or row["phash"]} for row in rows if row["sha256"] in images]


def _num_near(rows: Iterable[Row], hashes: frozenset[str]) -> int:
    """Return how many pictures are within a few bits of one of the `hashes`."""
    asked = [bits for row in rows if (bits := hash_bits(row["phash"])) is not None]
    learnt = {bits for each in hashes if (bits := hash_bits(each or None)) is not None}
    near = NearHashes(learnt)
    return sum(near.near(each).size > 0 for each in asked)


def circularity(origin: Origin, truth: HeldOutExpressions) -> list[str]:
    """Return what must be said before any figure of answers; empty where it is known that they share nothing."""
    asked, made_by = truth.image_digests(), models_of(RunLocation.open(truth.root))
    learnt, ours, rows = origin.images or frozenset(), origin.models, _pictures(truth.root, asked)
    unseen = [row for row in rows if learnt.isdisjoint((row["sha256"], row["picture_sha256"]))]
    seen, num_near = len(asked.difference(row["sha256"] for row in unseen)), _num_near(unseen, origin.hashes)
    shared = [stage for stage, digest in (made_by or {}).items() if digest and digest in (ours or ())]
    notes, unknown = [], ["images"] if origin.images is None else []
    if seen:
        counted = f"{seen:,} of the {len(asked):,} images of the truth were learnt from (equal sha256)"
        notes.append(f"Circular: {counted}. The figures say nothing of unseen images.")
    if num_near:
        counted = f"{num_near:,} of the {len(asked):,} images of the truth are near copies of what was learnt from"
        notes.append(f"Circular: {counted} (perceptual hash). The figures say little of unseen images.")
    if shared:
        models = f"models that made the truth answer here, or made what was learnt from ({', '.join(shared)}; equal"
        notes.append(f"Circular: {models} sha256). The figures say how far they agree, not how right they are.")
    elif made_by is None or (made_by and (ours is None or "" in (*made_by.values(), *ours))):
        unknown.append("models")
    if learnt and ("" in origin.hashes or any(row["phash"] is None for row in unseen)):
        notes.append("Not proven clean: near copies are unknown, as some pictures have no perceptual hash.")
    if unknown:
        rest = f"no record says which {' and '.join(unknown)} the answers rest on"
        notes.append(f"Not proven clean: {rest}. They may be those of the truth.")
    return notes
