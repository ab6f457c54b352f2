"""The frozen encoders: CLIP's stages and words, SAM's images; an image is encoded once if the cache has room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torchvision.transforms.v2.functional import resize

from pseudoris.training.learning.clip_features import response_map
from pseudoris.training.learning.frozen_towers import FrozenTowers
from pseudoris.training.ppt.point_mask_decoder import EncodedImages, PointMaskDecoder
from pseudoris.training.ppt.ppt_config import PptConfig
from pseudoris.training.ppt.ppt_model import FrozenFeatures
from pseudoris.training.ppt.pseudo_labels import LabelFrame
from pseudoris.training.ppt.recipes.response_maps import prompted
from pseudoris.workers.checkpoints.sam import load_sam
from pseudoris.workers.device import to_device
from pseudoris.workers.masks.sam_frames import EncodedCrop, encode_crops, upsample


@dataclass(frozen=True, slots=True)
class _EncodedImage:
    """An image: stages (N, C, h, w) and patches in the joint space (D, h, w) of CLIP, SAM's embedding (C, h, w).

    All float16 on the CPU; `input_size` is the image's for SAM, (h, w).
    """

    stages: torch.Tensor
    dense: torch.Tensor
    embedding: torch.Tensor
    input_size: tuple[int, int]

    @property
    def num_bytes(self) -> int:
        return self.stages.nbytes + self.dense.nbytes + self.embedding.nbytes


class FrozenEncoders:
    """The frozen CLIP and SAM.

    Features are rounded to float16 even if they are not cached, so the size of the cache does not change a result.

    Attributes:
        device: Where they compute.
        frame: Frame of the pseudo-masks.
        decoder: SAM's mask decoder.
        image_width: Channels of a stage.
        text_width: Channels of a word.
        made_of: The settings that decide their output.
    """

    def __init__(self, config: PptConfig, device: torch.device | str = "cpu") -> None:
        """Load both.

        Raises:
            ConfigError: Weights are missing or of another architecture, or a block that CLIP does not have.
        """
        self.device, self._prompt = torch.device(device), config.clip.prompt
        self.made_of = made_of(config)
        named = ("clip.architecture", "generator.image_blocks")
        self._towers = FrozenTowers(config.towers(), self.device, settings=named)
        self._sam = load_sam(config.sam.architecture, config.sam.weights).to(self.device).requires_grad_(False)
        self._sam_dtype = torch.float32 if config.training.precision == "32-true" else torch.bfloat16
        self.decoder = PointMaskDecoder(self._sam)
        side = int(self._sam.image_encoder.img_size)
        # Source: segment-anything 1.0: mask logits have four cells a cell of the embedding.
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
        """Return the features of B pairs.

        Args:
            image_keys: (B,); one key is one image.
            images: (B,) of (3, H, W) uint8 RGB, upright; None if its features are cached.
            texts: (B,).
        """
        # Cached features must not depend on the caller: Select calls in half precision, a step in full precision.
        with torch.autocast(self.device.type, enabled=False):
            return self._encode(image_keys, images, texts)

    def _encode(
        self, image_keys: Sequence[str], images: Sequence[torch.Tensor | None], texts: Sequence[str]
    ) -> FrozenFeatures:
        seen = self._encode_images(dict(zip(image_keys, images, strict=True)))
        own = [seen[key] for key in image_keys]
        stages, dense, embeddings = (
            to_device(torch.stack([getattr(each, name) for each in own]), self.device).float()
            for name in ("stages", "dense", "embedding")
        )
        # x before y, as points are.
        sizes = torch.tensor([each.input_size[::-1] for each in own], dtype=torch.float32)
        words = self._towers.encode_texts(texts)
        encoded = EncodedImages(embeddings, to_device(sizes, self.device))
        asked = self._towers.encode_texts([prompted(text, self._prompt) for text in texts])
        response = standardised(response_map(dense, asked.embedding))
        return FrozenFeatures(list(stages.unbind(1)), words.words, words.is_word, words.tokens, response, encoded)

    def on_image(self, mask_logits: torch.Tensor, size: tuple[int, int], input_size: tuple[int, int]) -> torch.Tensor:
        """Return mask logits (T, h, w) on the pixels of an image of `size` (H, W), (T, H, W) float32."""
        return upsample(mask_logits, EncodedCrop(mask_logits, size, input_size), self.frame.image_size)

    def _encode_images(self, images: dict[str, torch.Tensor | None]) -> dict[str, _EncodedImage]:
        """Return the features of images, cached or computed."""
        seen = {key: self._kept[key] for key in images if key in self._kept}
        missing = {key: image for key, image in images.items() if key not in seen and image is not None}
        if missing:
            side = self._towers.image_format.size
            # Stretched, as in the recipes' responses: its grid and the image share one frame in [0, 1].
            pixels = torch.stack([resize(image, [side, side], antialias=True) for image in missing.values()])
            found = self._towers.read_images(pixels)
            of_clip = zip(found.stages.half().cpu(), found.dense.half().cpu(), strict=True)
            for (key, image), (stages, dense) in zip(missing.items(), of_clip, strict=True):
                seen[key] = self._keep(key, self._with_sam(image, stages, dense))
        return seen

    @torch.inference_mode()
    def _with_sam(self, image: torch.Tensor, stages: torch.Tensor, dense: torch.Tensor) -> _EncodedImage:
        # One by one: rounding depends on the shape of the batch, and the images that are missing depend on the cache.
        (crop,) = encode_crops(self._sam, [image.permute(1, 2, 0).numpy()], self._sam_dtype)
        # A row of a batch would keep the whole batch in memory.
        return _EncodedImage(stages.clone(), dense.clone(), crop.embedding.half().cpu().clone(), crop.input_size)

    def _keep(self, key: str, seen: _EncodedImage) -> _EncodedImage:
        if self._left_bytes > 0:
            self._left_bytes -= seen.num_bytes
            self._kept[key] = seen
        return seen


def made_of(config: PptConfig) -> tuple[str, ...]:
    """Return the settings that decide the encoders' output."""
    blocks = str(config.generator.image_blocks)
    return config.clip.model_dump_json(), config.sam.model_dump_json(), blocks, config.training.precision


def standardised(maps: torch.Tensor) -> torch.Tensor:
    """Return maps (B, h, w), each with mean 0 and standard deviation 1; one without a range is 0."""
    centred = maps - maps.mean((1, 2), keepdim=True)
    if centred[0].numel() == 1:
        return centred
    return centred / (centred.std((1, 2), keepdim=True) + 1e-4)
