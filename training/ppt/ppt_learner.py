"""PPT (curriculum point prompting) for the trainer: the point generator over cached frozen CLIP and SAM.

For `training`, `cli`, examples, experiments. No feature depends on the size of the cache or batch. A key is one image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import torch
from lightning_fabric import Fabric
from PIL import Image, ImageDraw
from torch import nn
from torchvision.transforms.v2.functional import resize

from pseudoris.training.evaluation.held_out import HeldOutExpressions, ImageQuestion, held_out_figures
from pseudoris.training.learning.checkpoint_folder import Trained
from pseudoris.training.learning.clip_features import response_map
from pseudoris.training.learning.frozen_towers import FrozenTowers
from pseudoris.training.learning.mask_overlay import draw_overlay, enlargement
from pseudoris.training.learning.trainer import TowersConfig, load_trained
from pseudoris.training.ppt.pairs import LabelFrame, PairBatch
from pseudoris.training.ppt.point_generator import EncodedImages, FrozenFeatures, PointGenerator
from pseudoris.training.ppt.ppt_config import PptConfig
from pseudoris.training.ppt.ppt_model import LabelledFeatures, PointMaskDecoder, PointPrompting
from pseudoris.training.ppt.recipes.grounding import prompted
from pseudoris.workers.device import to_device
from pseudoris.workers.masks.sam_model import EncodedCrop, encode_sam_crops, load_sam, upsample


class _EncodedImage(NamedTuple):
    """An image's CLIP stages (N, C, h, w) and patches (D, h, w), and SAM's (C, h, w); all float16 on the CPU."""

    stages: torch.Tensor
    dense: torch.Tensor
    embedding: torch.Tensor
    input_size: tuple[int, int]


class FrozenEncoders:
    """The frozen CLIP and SAM; features are rounded to float16 even if they are not cached.

    `image_width` and `text_width` are the channels of a stage and of a word, `frame` is that of the pseudo-masks.
    """

    def __init__(self, config: PptConfig, device: torch.device | str = "cpu") -> None:
        self.device, self._prompt = torch.device(device), config.clip.prompt
        named = ("clip.architecture", "generator.image_blocks")
        clip, layers = config.clip, config.generator.image_blocks
        towers = TowersConfig(architecture=clip.architecture, weights=clip.weights, layers=layers)
        self._towers = FrozenTowers(towers, self.device, settings=named)
        self._sam = load_sam(config.sam.architecture, config.sam.weights).to(self.device).requires_grad_(False)
        self._sam_dtype = torch.float32 if config.training.precision == "32-true" else torch.bfloat16
        self.decoder = PointMaskDecoder(self._sam)
        side = int(self._sam.image_encoder.img_size)
        # SAM's mask logits have four cells along each side of an embedding's cell. Source: segment-anything 1.0.
        self.frame = LabelFrame(side, 4 * int(self._sam.prompt_encoder.image_embedding_size[0]))
        self.image_width, self.text_width = self._towers.widths.image, self._towers.widths.text
        self._left_bytes = config.data.cache_bytes
        self._kept: dict[str, _EncodedImage] = {}

    def holds(self, image_key: str) -> bool:
        """Return whether the features of an image are cached: then the image need not be given."""
        return image_key in self._kept

    def encode(
        self, image_keys: Sequence[str], images: Sequence[torch.Tensor | None], texts: Sequence[str]
    ) -> FrozenFeatures:
        """Return the features of B pairs; one key is one image (3, H, W) uint8 RGB, upright, or None if it is held."""
        # Autocast is off, so that cached features are equal for all callers: Select runs in half precision.
        with torch.autocast(self.device.type, enabled=False):
            given = dict(zip(image_keys, images, strict=True))
            seen = {key: self._kept[key] for key in given if key in self._kept}
            missing = {key: image for key, image in given.items() if key not in seen and image is not None}
            if missing:
                side = self._towers.image_format.size
                # Images are stretched as in `recipes/grounding.py`, so that grid and image share one frame in [0, 1].
                pixels = torch.stack([resize(image, [side, side], antialias=True) for image in missing.values()])
                found = self._towers.read_images(pixels)
                of_clip = (each.half().cpu() for each in (found.stages, found.dense))
                for (key, image), *own in zip(missing.items(), *of_clip, strict=True):
                    seen[key] = self._with_sam(image, *own)
                    if self._left_bytes > 0:
                        self._left_bytes -= sum(each.nbytes for each in seen[key][:3])
                        self._kept[key] = seen[key]
            *parts, input_sizes = zip(*(seen[key] for key in image_keys), strict=True)
            stages, dense, embeddings = (to_device(torch.stack(each), self.device).float() for each in parts)
            # Sizes become (x, y), because points have this order too.
            sizes = torch.tensor([size[::-1] for size in input_sizes], dtype=torch.float32)
            words = self._towers.encode_texts(texts)
            encoded = EncodedImages(embeddings, to_device(sizes, self.device))
            asked = self._towers.encode_texts([prompted(text, self._prompt) for text in texts])
            response = response_map(dense, asked.embedding)
            response = response - response.mean((1, 2), keepdim=True)
            if response[0].numel() > 1:
                # The added 1e-4 avoids a division by 0: the deviation of a constant map is 0, and the map stays 0.
                response = response / (response.std((1, 2), keepdim=True) + 1e-4)
            return FrozenFeatures(list(stages.unbind(1)), words.words, words.is_word, words.tokens, response, encoded)

    def on_image(self, mask_logits: torch.Tensor, size: tuple[int, int], input_size: tuple[int, int]) -> torch.Tensor:
        """Return mask logits (T, h, w) on the pixels of an image of `size` (H, W), (T, H, W) float32."""
        return upsample(mask_logits, EncodedCrop((mask_logits,), size, input_size), self.frame.image_size)

    @torch.inference_mode()
    def _with_sam(self, image: torch.Tensor, stages: torch.Tensor, dense: torch.Tensor) -> _EncodedImage:
        # Images are encoded one by one: rounding depends on the batch, and the batch would depend on the cache.
        (crop,) = encode_sam_crops(self._sam, [image.permute(1, 2, 0).numpy()], self._sam_dtype)
        # Tensors are cloned, because a cached view of one row would keep its whole batch in memory.
        return _EncodedImage(stages.clone(), dense.clone(), crop.embedding.half().cpu().clone(), crop.input_size)


LEARNER: Final = "ppt"
# One pass answers at most this many expressions of an image.
_TEXTS_A_PASS = 32


@dataclass(frozen=True, slots=True)
class PointAnswer:
    """The most confident query of each of T expressions of one image, on the CPU.

    Mask logits (T, H, W) float32 on the image's pixels, above 0 inside; points (T, M, 2) float32 in [0, 1] of it;
    `is_positive` (T, M) bool; confidences (T,) float32 in [0, 1].
    """

    logits: torch.Tensor
    points_xy: torch.Tensor
    is_positive: torch.Tensor
    confidences: torch.Tensor


class PointLearner:
    """A point generator (`module`) over its frozen encoders; `held_out` is asked at each validation, None for none."""

    def __init__(self, config: PptConfig, encoders: FrozenEncoders, held_out: HeldOutExpressions | None = None) -> None:
        """Draw fresh weights from the seed of the training alone, not from torch's global generator."""
        self.encoders, self.held_out = encoders, held_out
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.training.seed)
            generator = PointGenerator(config.generator, encoders.image_width, encoders.text_width)
        self.module = PointPrompting(generator, encoders.decoder, config.objective)

    def losses(self, module: nn.Module, batch: PairBatch) -> Mapping[str, torch.Tensor]:
        """Return the loss and its terms, of a batch."""
        features = self.encoders.encode(batch.image_keys, batch.images, batch.texts)
        pseudo_labels = batch.pseudo_labels.to(self.encoders.device)
        terms: dict[str, torch.Tensor] = module(LabelledFeatures(features, pseudo_labels))
        return terms

    def validate(self, module: nn.Module, fabric: Fabric) -> Mapping[str, float]:
        """Return the figures of the held-out expressions."""
        if self.held_out is None:
            return {}
        # `self.answer` uses the learner's own module, because the wrapper `module` only has `forward`.
        with fabric.autocast():
            return held_out_figures(self.answer, self.held_out, fabric)

    def answer(self, question: ImageQuestion) -> torch.Tensor:
        """Return a mask for each expression, (T, H, W) bool."""
        self.module.eval()
        return self.predict(question.image_key, question.image, question.texts).logits > 0

    @torch.no_grad()
    def predict(self, image_key: str, image: torch.Tensor, texts: Sequence[str]) -> PointAnswer:
        """Return how the most confident query answers each expression of an image, (3, H, W) uint8, upright RGB."""
        size = (int(image.shape[1]), int(image.shape[2]))
        parts = []
        for first in range(0, len(texts), _TEXTS_A_PASS):
            some = list(texts[first : first + _TEXTS_A_PASS])
            features = self.encoders.encode([image_key] * len(some), [image] * len(some), some)
            found = self.module.referent(features)
            width, height = (int(side) for side in features.sam.input_sizes[0].tolist())
            logits = self.encoders.on_image(found.mask_logits.float(), size, (height, width))
            confidences = found.prompts.confidence_logits.sigmoid()
            said = (logits, found.prompts.points_xy, found.prompts.label_logits > 0, confidences)
            parts.append([each.cpu() for each in said])
        return PointAnswer(*map(torch.cat, zip(*parts, strict=True)))


def load_ppt(path: Path, device: str = "cpu") -> PointLearner:
    """Return the learner of a training's folder, of one of its rounds, or of a checkpoint, in eval mode."""
    trained = Trained.read(path, LEARNER, PptConfig, command="pseudoris train ppt")
    config = trained.config
    trained.require_weights("CLIP", config.clip.weights, "sha256", "clip")
    trained.require_weights("SAM", config.sam.weights, "sha256", "sam")
    learner = PointLearner(config, FrozenEncoders(config, torch.device(device)))
    load_trained(learner.module, trained.module, where=str(trained.file))
    learner.module.to(device).eval()
    return learner


_POSITIVE, _NEGATIVE, _RIM = (50, 230, 80), (255, 60, 60), (20, 20, 20)
_RADIUS_PX: Final = 7


def draw_answer(image: torch.Tensor, answer: PointAnswer, text: str, truth: torch.Tensor | None = None) -> Image.Image:
    """Return a picture of an image (3, H, W) uint8 RGB: the mask tinted, the outline of `truth` (H, W) bool blue.

    Positive points are green discs with a plus, negative ones red with a minus. Confidence follows the expression.
    """
    height, width = int(image.shape[1]), int(image.shape[2])
    confidence = float(answer.confidences[0])
    picture = draw_overlay(image, answer.logits[0] > 0, f"{text} \N{MIDDLE DOT} confidence {confidence:.2f}", truth)
    scale = torch.tensor([width, height]) * enlargement((height, width))
    draw = ImageDraw.Draw(picture)
    radius, half = _RADIUS_PX, _RADIUS_PX - 4
    for (x, y), is_positive in zip((answer.points_xy[0] * scale).tolist(), answer.is_positive[0].tolist(), strict=True):
        colour = _POSITIVE if is_positive else _NEGATIVE
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline=_RIM, width=2)
        # A plus or a minus shows the label too, for readers who cannot see the difference in colour.
        draw.line((x - half, y, x + half, y), fill=_RIM, width=2)
        if is_positive:
            draw.line((x, y - half, x, y + half), fill=_RIM, width=2)
    return picture
