"""Second opinions (`grounding_check`): which mask does another model take each caption to refer to?

`workers/stages.py` builds a check before the scorer, whose rule may bound its answers. For the masks k of an image and
a caption t, another CLIP says

    score(k, t) = (cos(context crop k, t) + cos(masked crop k, t)) / 2
    share(k, t) = softmax over k of score(k, t) / temperature

A check says whether the caption's own mask has the highest score, its share, and the other mask with the highest score.
The crops must be those of the scorer at its defaults. A mask that is alone in its image has the share 1 and no rival.

To a vision-language model the whole image is shown with every mask outlined and lettered, and it is asked for the
letter of a caption. It generates nothing: the logits of the letters, at the place where the answer begins, are its
opinion. Two letterings are averaged, because models prefer some letters. More masks than letters take several images.

The image and the start of the question are computed once. Each caption is a branch behind them, as a prefix of a
caption is in the captioner's tree (`vlm_towers.py`). So a caption must not change the tokens before it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from string import ascii_uppercase
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydantic import Field, JsonValue
from scipy.ndimage import distance_transform_edt

from pseudoris.primitives import rle
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import ComputeConfig, FilterConfig, GroundingCheckConfig
from pseudoris.schemas.fitted import Floats
from pseudoris.schemas.frozen import FrozenModel
from pseudoris.schemas.shard import Shard, ShardImage
from pseudoris.workers.captions.decoding_rules import Ints, PrefixLevel, extend
from pseudoris.workers.captions.vlm_captioner import Vlm, VlmOptions, checked_folder, load_vlm, vlm_options
from pseudoris.workers.captions.vlm_towers import Inputs, VlmTowers, shortened
from pseudoris.workers.captions.vocabulary_logits import score_dtype
from pseudoris.workers.checkpoints.hf_models import load_processor
from pseudoris.workers.checkpoints.model_folder import ModelFolder
from pseudoris.workers.crops.crops import outlined
from pseudoris.workers.crops.shard_pixels import Decode, prefetched_pixels
from pseudoris.workers.device import compute_dtype, prepare_device, to_host
from pseudoris.workers.faults.quarantine import apply_to_images
from pseudoris.workers.filtering.clip_embedder import ClipEmbedder
from pseudoris.workers.filtering.scorer import (
    Vectors,
    candidates_of,
    captions_of,
    embed_crops,
    first_twins,
    has_candidates,
    with_candidates,
)
from pseudoris.workers.stages import STAGE_FILTER, open_clip_digest


@dataclass(frozen=True, slots=True)
class Choices:
    """What a model says of T captions of one image.

    Attributes:
        is_target: (T,) bool, no other mask has a higher score.
        share: (T,) float64 in [0, 1], the target's probability among the masks.
        rival: (T,) int64, the other mask with the highest score, the first of equals; None if the image has one mask.
    """

    is_target: npt.NDArray[np.bool_]
    share: Floats
    rival: npt.NDArray[np.int64] | None

    def onto(self, image: ShardImage) -> ShardImage:
        """Return the image with its T candidates told, in order."""
        told = (
            replace(
                each,
                grounding_choice=float(self.is_target[row]),
                grounding_share=float(self.share[row]),
                grounding_rival=None if self.rival is None else image.masks[int(self.rival[row])].mask_id,
            )
            for row, each in enumerate(candidates_of(image)[0])
        )
        return with_candidates(image, told)


def choices(logits: npt.ArrayLike, targets: npt.ArrayLike) -> Choices:
    """Return what logits (N, T) of N masks say of T captions, with masks `targets` (T,) int; ValueError for NaN."""
    table, target = np.asarray(logits, np.float64), np.asarray(targets, np.int64)
    if not np.isfinite(table).all():
        raise ValueError("a logit is not finite: the weights or the crop hold NaN")
    own = np.arange(len(target))
    likely = np.exp(table - table.max(axis=0))
    share = likely[target, own] / likely.sum(axis=0)
    if len(table) == 1:
        return Choices(np.ones(len(target), np.bool_), share, rival=None)
    others = table.copy()
    others[target, own] = -np.inf
    return Choices(table[target, own] >= others.max(axis=0), share, rival=others.argmax(axis=0))


class ClipCheck:
    """Sets choice, share and rival of every expression of one mask."""

    weights_digest = staticmethod(open_clip_digest)

    def __init__(self, config: GroundingCheckConfig, compute: ComputeConfig) -> None:
        """Load CLIP."""
        scorer = FilterConfig(architecture=config.architecture or "", weights=config.weights)
        self._temperature = config.temperature
        self._context_scale = scorer.context_scale
        self._embedder = ClipEmbedder(scorer, compute)

    def __call__(self, shard: Shard) -> Shard:
        """Return the shard with every candidate of one mask told; see `apply_to_images` for errors."""
        started = time.perf_counter()
        shard, vectors = embed_crops(shard, self._embedder, self._context_scale)
        texts = captions_of(shard.images)
        embedded = dict(zip(texts, self._embedder.embed_texts(texts), strict=True))
        told = partial(self._told, vectors=vectors, texts=embedded)
        return apply_to_images(shard.with_seconds(STAGE_FILTER, time.perf_counter() - started), STAGE_FILTER, told)

    def _told(
        self, image: ShardImage, *, vectors: Mapping[str, Vectors], texts: Mapping[str, torch.Tensor]
    ) -> ShardImage:
        if image.image_id not in vectors:
            return image
        candidates, targets = candidates_of(image)
        context, masked = vectors[image.image_id]
        cosines = (context + masked) @ torch.stack([texts[each.text] for each in candidates]).T / 2
        return choices(cosines[first_twins(image)] / self._temperature, targets).onto(image)


# Masks are named by letters, because a letter is one token in all models that were tried. "10" often is not.
LETTERS: Final = ascii_uppercase
_NUM_LETTERINGS: Final = 2
QUESTION: Final = (
    "Regions of the image are outlined, each with a letter on it. Which region is meant by the words below? Answer "
    "with its letter alone.\n{text}"
)
# At most this many captions are asked at once. This bounds the cache, which grows with their tokens.
TEXTS_TOGETHER: Final = 64
# A letter's size is this share of the image's longer side.
_LETTER_SIZE: Final = 0.04
_MIN_LETTER_PX: Final = 10


class VlmCheckOptions(FrozenModel):
    """`grounding_check.options` of the engine `vlm`."""

    # An image is reduced until its longer side has at most this many pixels, before its masks are marked.
    max_size: int = Field(default=1024, ge=28, le=8192)
    # The model's processor gets these options, as in the option `processor` of the captioner `vlm`.
    processor: dict[str, JsonValue] = Field(default_factory=dict)


def lettered(pixels: NDArray[np.uint8], masks: NDArray[np.bool_], letters: str) -> NDArray[np.uint8]:
    """Return an image (H, W, 3) RGB with masks (N, H, W) outlined, each with its letter where it is widest."""
    for mask in masks:
        pixels = outlined(pixels, mask)
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(max(_MIN_LETTER_PX, _LETTER_SIZE * max(pixels.shape)))
    for mask, letter in zip(masks, letters, strict=True):
        y, x = np.unravel_index(distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1].argmax(), mask.shape)
        draw.rectangle(draw.textbbox((x, y), letter, font, anchor="mm"), fill=(0, 0, 0))
        draw.text((x, y), letter, (255, 255, 255), font, anchor="mm")
    return np.asarray(image)


def letterings(num_masks: int) -> list[list[Ints]]:
    """Return by image the mask of each letter, in two letterings: in no image has a mask the same letter twice."""
    groups = np.split(np.arange(num_masks), range(len(LETTERS), num_masks, len(LETTERS)))
    return [
        [np.roll(group, -(turn * len(group) // _NUM_LETTERINGS)) for turn in range(_NUM_LETTERINGS)] for group in groups
    ]


class VlmCheck:
    """Sets choice, share and rival of every expression of one mask."""

    def __init__(self, config: GroundingCheckConfig, compute: ComputeConfig) -> None:
        """Load the model."""
        options = vlm_options(VlmCheckOptions, "grounding_check", config.options)
        self._max_size = options.max_size
        self._device = prepare_device(compute)
        self._asker = Asker(load_vlm(config.weights, _as_vlm(options), self._device, compute_dtype(compute)))

    @classmethod
    def weights_digest(cls, config: GroundingCheckConfig) -> str:
        """Return the sha256 of the model folder, after all that is refused is refused by name."""
        letter_tokens(load_processor(ModelFolder.open(config.weights.uri)).tokenizer)
        options = vlm_options(VlmCheckOptions, "grounding_check", config.options)
        return checked_folder(config.weights, _as_vlm(options))[0]

    def __call__(self, shard: Shard) -> Shard:
        """Return the shard with every candidate of one mask told; see `apply_to_images` for errors."""
        with prefetched_pixels(list(filter(has_candidates, shard.images)), self._device) as decode:
            return apply_to_images(shard, STAGE_FILTER, partial(self._told, decode))

    def _told(self, decode: Decode, image: ShardImage) -> ShardImage:
        if not has_candidates(image):
            return image
        pixels, (candidates, targets) = decode(image), candidates_of(image)
        texts = captions_of([image])
        masks = rle.decode([mask.rle_counts for mask in image.masks], pixels.shape[:2])
        shares = self._asker.shares(*reduced(pixels, masks, self._max_size), texts)
        with np.errstate(divide="ignore"):
            logits = np.maximum(np.log(shares), np.finfo(np.float64).min / 2)
        rows = {text: row for row, text in enumerate(texts)}
        return choices(logits[:, [rows[each.text] for each in candidates]], targets).onto(image)


def _as_vlm(options: VlmCheckOptions) -> VlmOptions:
    return VlmOptions(prompt=QUESTION, processor=options.processor)


def reduced(
    pixels: NDArray[np.uint8], masks: NDArray[np.bool_], max_size: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return an image and its masks (N, H, W), reduced until the longer side has at most `max_size` pixels."""
    scale = max_size / max(pixels.shape[:2])
    if scale >= 1:
        return pixels, masks
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    small = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))
    rows, columns = (np.arange(new) * old // new for new, old in zip((height, width), pixels.shape[:2], strict=True))
    # A pixel of any mask stays, or a thin one would vanish.
    return small, np.logical_or.reduceat(np.logical_or.reduceat(masks, rows, axis=1), columns, axis=2)


def letter_tokens(tokenizer: Any) -> list[int]:
    """Return the token of each letter; `ConfigError` if one has none of its own."""
    tokens = [tokenizer.encode(letter, add_special_tokens=False) for letter in LETTERS]
    unknown = tokenizer.unk_token_id
    wrong = [letter for letter, token in zip(LETTERS, tokens, strict=True) if len(token) != 1 or token[0] == unknown]
    if wrong:
        raise ConfigError(
            f"grounding_check: the tokenizer of the model has no token of its own for the letter {wrong[0]}, so it "
            "cannot answer by letters: choose another model"
        )
    return [int(token) for (token,) in tokens]


class Asker:
    """Asks a model for the letters of captions."""

    def __init__(self, vlm: Vlm) -> None:
        """Find the letters among the model's tokens; `ConfigError` if one has none of its own."""
        self._vlm, self._tokenizer = vlm, vlm.processor.tokenizer
        head = vlm.model.get_output_embeddings().weight.detach()
        self._letters = head[letter_tokens(self._tokenizer)].to(score_dtype(head.dtype)).t()
        self._special = sorted(self._tokenizer.get_added_vocab(), key=len, reverse=True)
        sample = self._asked(np.zeros((28, 28, 3), np.uint8), "a thing")
        self._towers = VlmTowers(vlm.model, sample)

    @torch.inference_mode()
    def shares(self, pixels: NDArray[np.uint8], masks: NDArray[np.bool_], texts: Sequence[str]) -> Floats:
        """Return the share of each mask (N, H, W) of an RGB image for each text, (N, T) float64, 1 in all per text."""
        orders = letterings(len(masks))
        flat = [order for group in orders for order in group]
        pictures = [lettered(pixels, masks[order], LETTERS[: len(order)]) for order in flat]
        # Special tokens in a caption are replaced, because they would act as markers of the chat template.
        for token in self._special:
            texts = [text.replace(token, " ") for text in texts]
        logits = self._logits(pictures, texts)
        found = np.zeros((_NUM_LETTERINGS, len(masks), len(texts)))
        for turn in range(_NUM_LETTERINGS):
            for place, order in enumerate(flat):
                if place % _NUM_LETTERINGS == turn:
                    found[turn, order] = logits[place, :, : len(order)].T
        likely = np.exp(found - found.max(axis=1, keepdims=True))
        return np.asarray((likely / likely.sum(axis=1, keepdims=True)).mean(axis=0))

    def _asked(self, pixels: NDArray[np.uint8], text: str) -> Inputs:
        vlm = replace(self._vlm, options=self._vlm.options.model_copy(update={"prompt": QUESTION.format(text=text)}))
        return vlm.inputs(torch.from_numpy(pixels.copy()).permute(2, 0, 1))

    def _tail(self, text: str) -> list[int]:
        """Return the tokens of a question behind its last special one, such as the image's, with what follows it."""
        asked = QUESTION.format(text=text)
        message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": asked}]}
        whole = str(self._vlm.processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False))
        before, found, after = whole.rpartition(asked)
        start = max((before.rfind(token) + len(token) for token in self._special if token in before), default=0)
        if not found or not start:
            raise ConfigError("grounding_check: the chat template changes the question: choose another model")
        return [int(each) for each in self._tokenizer.encode(before[start:] + found + after, add_special_tokens=False)]

    def _logits(self, pictures: Sequence[NDArray[np.uint8]], texts: Sequence[str]) -> Floats:
        """Return the letters' logits (C, T, 26) float64 of C pictures and T texts."""
        tails = [self._tail(text) for text in texts]
        # All prompts begin alike, so the common beginning is computed once.
        num_shared = next((at for at, each in enumerate(zip(*tails, strict=False)) if len(set(each)) > 1), 0)
        num_shared = num_shared or min(map(len, tails))
        prompts = []
        for picture in pictures:
            whole = self._asked(picture, texts[0])
            tokens = whole["input_ids"][0].tolist()
            if tokens[-len(tails[0]) :] != tails[0]:
                raise ConfigError("grounding_check: the processor changes the question: choose another model")
            prompts.append(shortened(whole, len(tokens) - len(tails[0]) + num_shared))
        self._towers.attend_to(prompts)
        found = np.empty((len(pictures), len(texts), len(LETTERS)))
        root = tails[0][num_shared - 1]
        for start in range(0, len(texts), TEXTS_TOGETHER):
            part = slice(start, start + TEXTS_TOGETHER)
            mark = self._towers.mark()
            found[:, part] = self._branches(root, [tail[num_shared:] for tail in tails[part]], len(pictures))
            self._towers.rewind(mark)
        return found

    def _branches(self, root: int, branches: Sequence[Sequence[int]], num_pictures: int) -> Floats:
        """Return the letters' logits (C, T, 26) behind each branch of tokens; an empty one ends at the root."""
        found = np.empty((num_pictures, len(branches), len(LETTERS)))
        rows = np.arange(len(branches))
        level: PrefixLevel | None = None
        parents, tokens, paths = np.zeros(len(rows), np.int64), np.full(len(rows), root), None
        for depth in range(max(map(len, branches)) + 1):
            level = extend(level, parents, tokens, np.ones((len(rows), num_pictures), np.bool_))
            hidden, paths = self._towers.step(level, paths)
            logits = to_host(hidden.to(self._letters.dtype) @ self._letters)[0]
            is_last = np.array([len(branches[row]) == depth for row in rows.tolist()])
            ends = level.pair_of[level.row_prefix[is_last]]
            found[:, rows[is_last]] = logits[ends].transpose(1, 0, 2)
            parents, rows = level.row_prefix[~is_last], rows[~is_last]
            tokens = np.array([branches[row][depth] for row in rows.tolist()], np.int64)
        return found
