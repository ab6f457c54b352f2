"""Opens what `evaluate --model` names; each answers a text with a mask. For `cli`, this folder, examples, experiments.

An answer never uses the masks of the question. A file of predictions is checked when it is opened, before any figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from pseudoris.files.key_order import path_key
from pseudoris.images.parquet_pages import read_columns
from pseudoris.interchange.imports.human_annotation import is_utf8
from pseudoris.primitives import rle
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.head_nouns import noun_phrases
from pseudoris.primitives.rle import compressed_counts
from pseudoris.primitives.untrusted import parse_json, read_regular
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.ids import image_id
from pseudoris.schemas.shard import MaskRecord, clean_text
from pseudoris.training.chooser.candidate_masks import embedded_masks, propose_masks
from pseudoris.training.chooser.chooser_training import CHOOSER, load_student
from pseudoris.training.evaluation.held_out import Answerer, HeldOutExpressions, ImageQuestion, Origin, digests_of
from pseudoris.training.learning.checkpoint_folder import read_settings
from pseudoris.training.ppt.ppt_learner import LEARNER as PPT
from pseudoris.training.ppt.ppt_learner import load_ppt
from pseudoris.training.ppt.recipes.grounding import Grounder
from pseudoris.training.ppt.recipes.recipe_config import RecipeConfig, load_recipe_config
from pseudoris.workers.filtering.clip_embedder import ClipEmbedder
from pseudoris.workers.masks import SamProposer

# CLIP sees a mask in two crops: its box enlarged by 1.2, as for uniqueness (paper, section 4), and the mask alone.
_SCALES: Final = (1.2, None)
# The function returns the masks of an image in the order of the proposer.
Proposals = Callable[[ImageQuestion], Sequence[MaskRecord]]
SUFFIXES: Final = (".parquet", ".jsonl")
_COLUMNS: Final = ("image", "text", "segmentation")
_SHOWN_LETTERS: Final = 80
SENTENCE, NOUN, CLIP_AND_SAM = "clip:sentence", "clip:noun", "clip+sam"
ZERO_SHOT: Final = (SENTENCE, NOUN, CLIP_AND_SAM)


class SamProposals:
    """The masks that a run's SAM proposes; those of an image are proposed once."""

    def __init__(self, config: RunConfig) -> None:
        self._proposer = SamProposer(config.masks, config.compute)
        self._held: dict[str, Sequence[MaskRecord]] = {}

    def __call__(self, question: ImageQuestion) -> Sequence[MaskRecord]:
        """Return the masks of an image."""
        if question.image_id not in self._held:
            self._held[question.image_id] = propose_masks(self._proposer, _pixels(question))
        return self._held[question.image_id]


class ClipChoice:
    """Answers with the proposed mask whose crops, at two scales, the CLIP of a run's filter likes best together."""

    def __init__(self, proposals: Proposals, config: RunConfig, *, asked: Callable[[str], str] = str) -> None:
        """Load the CLIP; `asked` turns an expression into the text that it is asked."""
        self._proposals, self._asked = proposals, asked
        self._embedder = ClipEmbedder(config.filtering, config.compute)
        # Holds the embeddings of the last image only, by the image's id.
        self._seen: dict[str, torch.Tensor] = {}

    def answer(self, question: ImageQuestion) -> torch.Tensor:
        """Return a mask for each expression, (T, H, W) bool; empty where none is proposed."""
        masks = self._proposals(question)
        if not masks:
            return torch.zeros_like(question.masks)
        return chosen_masks(masks, self.scores(question, question.texts).argmax(1).tolist())

    def scores(self, question: ImageQuestion, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the score of each text with each mask of the image, (T, N); it has at least one."""
        if question.image_id not in self._seen:
            seen = embedded_masks(self._embedder, _pixels(question), self._proposals(question), _SCALES)
            # A mask's embedding is the sum over its crops: (N, D).
            self._seen = {question.image_id: seen.sum(0)}
        asked = self._embedder.embed_texts([self._asked(text) for text in texts])
        return np.asarray((asked @ self._seen[question.image_id].T).cpu().numpy(), np.float32)


class ClipAndSam:
    """PPT's first row (table 3): CLIP's response to the whole expression prompts SAM."""

    def __init__(self, config: RecipeConfig) -> None:
        self._grounder = Grounder(config.grounding, config.run)

    def answer(self, question: ImageQuestion) -> torch.Tensor:
        """Return a mask for each expression, (T, H, W) bool; an empty one where SAM answers with no pixel."""
        texts = list(dict.fromkeys(question.texts))
        found = {each.phrase: torch.from_numpy(each.mask) for each in self._grounder(_pixels(question), texts)}
        empty = torch.zeros(question.image.shape[1:], dtype=torch.bool)
        return torch.stack([found.get(text, empty) for text in question.texts])


def chosen_masks(masks: Sequence[MaskRecord], choices: Sequence[int]) -> torch.Tensor:
    """Return some of the masks of an image, (T, H, W) bool."""
    decoded = rle.decode([mask.rle_counts for mask in masks], masks[0].rle_size)
    return torch.from_numpy(decoded)[list(choices)]


def _pixels(question: ImageQuestion) -> NDArray[np.uint8]:
    return np.ascontiguousarray(question.image.permute(1, 2, 0).numpy())


class Predictions:
    """Answers with the masks of a file, Parquet or JSON Lines.

        {"image": "a/b.jpg", "text": "the red cup", "segmentation": {"size": [480, 640], "counts": "…"}}

    `image` is the file's path below the truth's folder of images, or its key there. `segmentation` is any form of COCO;
    null is an empty mask. Questions without a prediction are `num_missing`, predictions that none asks `num_unasked`.
    """

    def __init__(self, path: Path, questions: HeldOutExpressions) -> None:
        """Read the file and hold it to the questions."""
        self._masks: dict[tuple[str, str], str | None] = {}
        asked = {image.image_id: image for image in questions.images}
        asked_for = [(image.image_id, text) for image in questions.images for text in image.texts]
        pairs = set(asked_for)
        found: dict[tuple[str, str], Any] = {}
        for number, row in enumerate(_rows(path), start=1):
            where = f"--model {path}: row {number}"
            image, text = _said(row, "image", where), clean_text(_said(row, "text", where))
            known = asked.get(image_id(image)) or asked.get(image_id(path_key(image)))
            pair = (known.image_id if known else image, text)
            if "segmentation" not in row:
                raise ConfigError(f"{where} has no segmentation. Give each text its mask; null is an empty one.")
            if found.get(pair, row["segmentation"]) != row["segmentation"]:
                raise ConfigError(f"{where} predicts {text!r} of {image} a second time. Keep one of them.")
            found[pair] = row["segmentation"]
            if known is not None and pair in pairs:
                self._masks[pair] = _counts(row["segmentation"], known.size, f"{where} ({text!r} of {image})")
        if not self._masks:
            first = questions.images[0]
            raise ConfigError(
                f"--model {path}: none of its {len(found):,} predictions is asked for. The truth asks for "
                f"{first.texts[0]!r} of {first.key}. `image` must be the path below the truth's images."
            )
        self.num_missing = sum(pair not in self._masks for pair in asked_for)
        self.num_unasked = len(found) - len(self._masks)

    def notes(self) -> list[str]:
        """Return what a reader of the figures must know."""
        worst = "Each counts as the worst answer, with IoU 0, and in oIoU with the whole image as its union."
        missing = f"Questions without a prediction: {self.num_missing:,}. {worst}"
        unasked = f"{self.num_unasked:,} predictions are not asked for: they count nowhere."
        return [*([missing] if self.num_missing else []), *([unasked] if self.num_unasked else [])]

    def answer(self, question: ImageQuestion) -> torch.Tensor:
        """Return the masks of an image's expressions, (T, H, W) bool; empty where `is_missing`."""
        _, *size = question.masks.shape
        found = np.zeros(question.masks.shape, np.bool_)
        for row, text in enumerate(question.texts):
            if (counts := self._masks.get((question.image_id, text))) is not None:
                found[row] = rle.decode([counts], (size[0], size[1]))[0]
        return torch.from_numpy(found)

    def is_missing(self, question: ImageQuestion) -> NDArray[np.bool_]:
        """Return of which expressions of an image there is no prediction, (T,)."""
        return np.array([(question.image_id, text) not in self._masks for text in question.texts])


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        data = read_regular(path)
    except OSError as error:
        raise ConfigError(f"--model {path} cannot be read ({error.strerror}). Give a file of predictions.") from error
    if path.suffix.lower() == ".parquet":
        table = read_columns(data, _COLUMNS, where=f"--model {path}")
        lacking = [name for name in _COLUMNS if name not in table.column_names]
        if lacking:
            there = ", ".join(table.column_names) or "none"
            raise ConfigError(f"--model {path} has no column {lacking[0]}. Its columns are {there}. Rename one.")
        yield from table.to_pylist()
        return
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise ConfigError(f"--model {path}: line {number} is not JSON ({error}). Write the file again.") from error
        if not isinstance(row, dict):
            raise ConfigError(f"--model {path}: line {number} is no object with {', '.join(_COLUMNS)}. Mend it.")
        yield row


def _said(row: dict[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip() or not is_utf8(value):
        raise ConfigError(f"{where} has no {name} ({str(value)[:_SHOWN_LETTERS]!r}). Give each mask its {name}.")
    return value


def _counts(segmentation: Any, size: tuple[int, int], where: str) -> str | None:
    try:
        if isinstance(segmentation, int | float):
            raise ValueError(f"the segmentation is {segmentation}")
        counts = compressed_counts(segmentation, size)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}. Predict masks in pixels of the upright image.") from error
    if counts is not None and not rle.is_valid(counts, size):
        raise ConfigError(f"{where}: the runs of the mask do not fill the image, {size[0]} x {size[1]}. Write it anew.")
    return counts


def is_predictions(model: str) -> bool:
    """Return whether a model's name is that of a file of predictions."""
    return Path(model).suffix.lower() in SUFFIXES


def open_answerer(
    model: str, questions: HeldOutExpressions, *, preset: str | None = None, assignments: Sequence[str] = ()
) -> tuple[Answerer, Origin]:
    """Return a model, and what its answers rest on.

    `model` is the folder or checkpoint of a training, a file of predictions, whose origin is unknown, or one of
    `ZERO_SHOT`. These need a preset: a recipe's (`load_recipe_config`) for CLIP and SAM, a run's for the others.
    """
    if model in ZERO_SHOT:
        if preset is None:
            raise ConfigError(
                f"{model} needs a --preset: tiny for drawn scenes, base (or for clip+sam paper) for photographs."
            )
        if model == CLIP_AND_SAM:
            recipe = load_recipe_config(preset, None, assignments)
            return ClipAndSam(recipe), Origin(frozenset(), digests_of(recipe.run))
        config = load_config(preset, None, assignments).without_card()
        asked = (lambda text: next(iter(noun_phrases(text)), text)) if model == NOUN else str
        return ClipChoice(SamProposals(config), config, asked=asked), Origin(frozenset(), digests_of(config))
    if preset is not None or assignments:
        raise ConfigError(f"--preset and --set belong to {', '.join(ZERO_SHOT)}. Leave them out: {model} has its own.")
    path = Path(model)
    if is_predictions(model):
        return Predictions(path, questions), Origin()
    if not path.exists():
        raise ConfigError(
            f"--model {model} does not exist. Give the --out of `pseudoris train`, a file of predictions "
            f"({' or '.join(SUFFIXES)}), or one of {', '.join(ZERO_SHOT)}."
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    file, _, settings = read_settings(path)
    learner = settings.get("learner")
    if learner == PPT:
        return load_ppt(path, device), Origin.read(path)
    if learner == CHOOSER:
        return load_student(path, device), Origin.read(path)
    raise ConfigError(
        f"{file} is a checkpoint of {learner!r}, which is no model of `pseudoris train`. Write its masks to a file of "
        f"predictions ({' or '.join(SUFFIXES)}) and give that."
    )
