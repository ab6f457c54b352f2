"""Training data: an expression, and how well each candidate mask answers it. Called by `chooser_training.py`.

All draws depend on the seed, the epoch and the item alone. A mirrored image changes the places in its texts too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from pseudoris.interchange.dataset import MapDataset
from pseudoris.primitives.counter_rng import draw_below, key_of
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.ids import sha256_hex
from pseudoris.training.chooser.candidate_masks import CandidateStore
from pseudoris.training.chooser.chooser_config import ChooserConfig
from pseudoris.training.learning.training_data import loss_weights

_WORD = re.compile(r"[a-z]+")


@dataclass(frozen=True, slots=True)
class Question:
    """An expression of an image, both as seen in a mirror where `is_mirrored`; `weight` says how much its loss counts.

    Attributes:
        image_key: Identifies its image among those of all runs.
        ious: (N,) float32, of each candidate with the mask that was meant, or with the most like of several. Where
            "none of these" is an answer, (1 + N): its own comes first, 1 if no mask was meant.
    """

    image_key: str
    text: str
    ious: torch.Tensor
    is_mirrored: bool
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class QuestionBatch:
    """T questions, with `weights` (T,) float32, about U images, each by its key and whether it is mirrored.

    Attributes:
        owners: (T,) int64, the image of each question.
        ious: (T, N) or (T, 1 + N) float32, 0 where an image has fewer candidates.
    """

    images: list[tuple[str, bool]]
    owners: torch.Tensor
    texts: list[str]
    ious: torch.Tensor
    weights: torch.Tensor

    def __len__(self) -> int:
        return len(self.texts)


def collate_questions(groups: Sequence[Sequence[Question]]) -> QuestionBatch:
    """Return the questions of some masks as a batch."""
    questions = [each for group in groups for each in group]
    places: dict[tuple[str, bool], int] = {}
    for each in questions:
        places.setdefault((each.image_key, each.is_mirrored), len(places))
    ious = [each.ious for each in questions]
    return QuestionBatch(
        images=list(places),
        owners=torch.tensor([places[each.image_key, each.is_mirrored] for each in questions], dtype=torch.int64),
        texts=[each.text for each in questions],
        ious=pad_sequence(ious, batch_first=True) if ious else torch.zeros(0, 0),
        weights=torch.tensor([each.weight for each in questions], dtype=torch.float32),
    )


class QuestionDataset(Dataset[list[Question]]):
    """The masks of runs: each gives its expressions of the epoch, or none if no candidate resembles it.

    Candidates of an epoch's images are prepared when it begins: only an epoch with other human masks reads images.
    """

    def __init__(
        self,
        targets: MapDataset,
        images: MapDataset,
        *,
        store: CandidateStore,
        config: ChooserConfig,
        on_image: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Take two datasets of the same items: `targets` with masks, texts and weights, and their `images`.

        `on_image` is called after each image whose candidates were not at hand: how many are done, of how many.
        """
        self._targets, self._images, self._store, self._config = targets, images, store, config
        self._compared: dict[tuple[str, str], torch.Tensor] = {}
        self._on_image = on_image
        self.set_epoch(0)

    def __len__(self) -> int:
        return len(self._targets)

    def set_epoch(self, epoch: int) -> None:
        """Choose the expressions, which human masks repeat, and which images are mirrored."""
        self._epoch = epoch
        self._targets.set_epoch(epoch)
        self._images.set_epoch(epoch)
        self._keys = self._images.image_digests()
        first = {key: at for at, key in reversed(list(enumerate(self._keys)))}
        missing = [at for key, at in first.items() if self._store.held(key) is None]
        for done, at in enumerate(missing, 1):
            self._store.of(self._keys[at], self._images[at]["image"])
            self._on_image(done, len(missing))

    def image_keys(self) -> list[str]:
        """Return the image of every item of the epoch."""
        return self._keys

    def require_questions(self, runs: Sequence[str]) -> None:
        """Accept an epoch with a question; ConfigError, which names the runs, where no candidate fits any mask."""
        if any(self[at] for at in range(len(self))):
            return
        raise ConfigError(
            f"{', '.join(runs)}: nothing to train on. No candidate has an IoU of at least "
            f"{self._config.target.min_iou:g} (target.min_iou) with any of the {len(self):,} masks. Lower it, or raise "
            "masks.points_per_side in candidates.assignments."
        )

    def __getitem__(self, index: int) -> list[Question]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[list[Question]]:
        samples = self._targets.__getitems__(indices)
        return [self._questions(at, sample) for at, sample in zip(indices, samples, strict=True)]

    def _questions(self, index: int, sample: Any) -> list[Question]:
        config, key = self._config, self._keys[index]
        num_masks, texts = sample.get("num_masks", 1), sample["expressions"]
        ious = self._compare(key, sample["mask"], num_masks)
        if not len(ious) or (num_masks and float(ious.max()) < config.target.min_iou):
            return []
        answers = torch.cat([torch.tensor([float(not num_masks)]), ious]) if config.answers_none else ious
        words = config.mirrored_words
        if draw_below(key_of("mirror", config.training.seed, self._epoch, key), 0, 2) == 0:
            words = None
        return [
            Question(key, text if words is None else mirrored_text(text, words), answers, words is not None, weight)
            for text, weight in zip(texts, loss_weights(sample), strict=True)
        ]

    def _compare(self, key: str, mask: torch.Tensor, num_masks: int) -> torch.Tensor:
        """Return a mask's IoU with every candidate."""
        named = key, sha256_hex(mask.numpy().tobytes())
        if named not in self._compared:
            found = self._store[key]
            # A union of several masks is compared with the candidates that best make it up.
            ious = found.member_ious(mask, num_masks) if num_masks > 1 else found.ious(mask[None])[0]
            self._compared[named] = torch.from_numpy(ious).float()
        return self._compared[named]


def mirrored_text(text: str, words: Mapping[str, str]) -> str:
    """Return what a text says of a mirrored image, where `words` change places, one way or both."""
    both = {**{there: here for here, there in words.items()}, **words}
    return _WORD.sub(lambda found: both.get(found[0], found[0]), text)
