"""SAM's image encoder in NumPy, for a process that starts a run: it has no torch, which takes seconds to load.

One image at a time, float32, on a CPU. The result equals that of segment_anything's `ImageEncoderViT` up to rounding.
Source: segment-anything 1.0, modeling/image_encoder.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pseudoris.workers.checkpoints.sam_architectures import SamArchitecture

Floats: TypeAlias = NDArray[np.float32]

# Source: segment-anything 1.0, build_sam.py and common.py: for RGB in [0, 255].
_PIXEL_MEAN: Final = np.array([123.675, 116.28, 103.53], np.float32)
_PIXEL_STD: Final = np.array([58.395, 57.12, 57.375], np.float32)
_EPSILON: Final = 1e-6
# Source: Abramowitz and Stegun 1964, formula 7.1.26; its error is below 1.5e-7. SciPy's takes 0.3 s to import.
_ERF_SLOPE: Final = 0.3275911
_ERF_TERMS: Final = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
_PREFIX: Final = "image_encoder."


class NumpyEncoder:
    """The image encoder of a SAM."""

    def __init__(self, architecture: SamArchitecture, tensors: Mapping[str, NDArray[np.floating]]) -> None:
        """Take the encoder's tensors.

        Args:
            architecture: The numbers that the weights were made with.
            tensors: SAM's weights by name; those of the other parts are ignored.

        Raises:
            KeyError: A tensor is missing.
            ValueError: A tensor has another shape than the architecture says.
        """
        self._architecture = architecture
        self._tensors = {
            name.removeprefix(_PREFIX): np.ascontiguousarray(tensor, np.float32)
            for name, tensor in tensors.items()
            if name.startswith(_PREFIX)
        }
        grid, width = self.grid, architecture.encoder_width
        if self._tensors["pos_embed"].shape != (1, grid, grid, width):
            raise ValueError(f"pos_embed is {self._tensors['pos_embed'].shape}, expected (1, {grid}, {grid}, {width})")

    @property
    def side_px(self) -> int:
        """Width and height of its input."""
        return self._architecture.image_size

    @property
    def grid(self) -> int:
        """Patches a side."""
        return self._architecture.image_size // self._architecture.patch_size

    def __call__(self, pixels: NDArray[np.uint8]) -> Floats:
        """Return the embedding (C, h, w) of an image (S, S, 3) uint8 RGB of the encoder's own size.

        Raises:
            ValueError: The image has another size.
        """
        side = self.side_px
        if pixels.shape != (side, side, 3):
            raise ValueError(f"the image is {pixels.shape}, expected ({side}, {side}, 3)")
        tokens = self._patches((pixels.astype(np.float32) - _PIXEL_MEAN) / _PIXEL_STD) + self._tensors["pos_embed"][0]
        for number in range(self._architecture.encoder_depth):
            tokens = self._block(tokens, number)
        return self._neck(tokens).transpose(2, 0, 1)

    def _patches(self, image: Floats) -> Floats:
        """Return the embedded patches (h, w, C): a convolution whose stride is its kernel is one product."""
        grid, patch = self.grid, self._architecture.patch_size
        weight = self._tensors["patch_embed.proj.weight"]
        cut = image.reshape(grid, patch, grid, patch, 3).transpose(0, 2, 4, 1, 3).reshape(grid * grid, -1)
        flat = cut @ weight.reshape(len(weight), -1).T + self._tensors["patch_embed.proj.bias"]
        return flat.reshape(grid, grid, -1)

    def _block(self, tokens: Floats, number: int) -> Floats:
        place, window = f"blocks.{number}.", self._architecture.window_size
        is_global = number in self._architecture.encoder_global_blocks or window == 0
        normal = self._normalised(tokens, f"{place}norm1.")
        mixed = self._attention(normal[None], place)[0] if is_global else self._in_windows(normal, place, window)
        tokens = tokens + mixed
        hidden = _gelu(self._linear(self._normalised(tokens, f"{place}norm2."), f"{place}mlp.lin1."))
        return tokens + self._linear(hidden, f"{place}mlp.lin2.")

    def _in_windows(self, tokens: Floats, place: str, window: int) -> Floats:
        """Attend within windows; the grid is padded with zeros to whole windows."""
        height, width, channels = tokens.shape
        rows, columns = -(-height // window), -(-width // window)
        padded = np.zeros((rows * window, columns * window, channels), np.float32)
        padded[:height, :width] = tokens
        cut = padded.reshape(rows, window, columns, window, channels).swapaxes(1, 2)
        mixed = self._attention(cut.reshape(-1, window, window, channels), place)
        joined = mixed.reshape(rows, columns, window, window, channels).swapaxes(1, 2).reshape(padded.shape)
        return joined[:height, :width]

    def _attention(self, tokens: Floats, place: str) -> Floats:
        """Return what each token of (B, h, w, C) gathers from its own window, with relative positions added."""
        batch, height, width, channels = tokens.shape
        heads = self._architecture.encoder_heads
        together = self._linear(tokens, f"{place}attn.qkv.").reshape(batch, height * width, 3, heads, -1)
        queries, keys, values = together.transpose(2, 0, 3, 1, 4)
        scores = (queries * np.float32(queries.shape[-1] ** -0.5)) @ keys.swapaxes(-1, -2)
        grid = queries.reshape(batch, heads, height, width, -1)
        apart = scores.reshape(batch, heads, height, width, height, width)
        if f"{place}attn.rel_pos_h" in self._tensors:
            along_rows = self._relative(f"{place}attn.rel_pos_h", height)
            along_columns = self._relative(f"{place}attn.rel_pos_w", width)
            apart += np.einsum("bnhwc,hkc->bnhwk", grid, along_rows, optimize=True)[..., None]
            apart += np.einsum("bnhwc,wkc->bnhwk", grid, along_columns, optimize=True)[..., None, :]
        mixed = _softmax(scores) @ values
        return self._linear(mixed.swapaxes(1, 2).reshape(batch, height, width, channels), f"{place}attn.proj.")

    def _relative(self, name: str, size: int) -> Floats:
        """Return the position vectors (query, key, C) along one axis."""
        places = np.arange(size)
        vectors: Floats = self._tensors[name][places[:, None] - places[None, :] + size - 1]
        return vectors

    def _neck(self, tokens: Floats) -> Floats:
        """Return (h, w, C): a convolution of 1 × 1, then one of 3 × 3, each normalised."""
        first = self._tensors["neck.0.weight"][:, :, 0, 0]
        hidden = self._normalised(tokens @ first.T, "neck.1.")
        height, width, _ = hidden.shape
        padded = np.pad(hidden, ((1, 1), (1, 1), (0, 0)))
        kernel = self._tensors["neck.2.weight"]
        summed = np.zeros_like(hidden)
        for row in range(3):
            for column in range(3):
                summed += padded[row : row + height, column : column + width] @ kernel[:, :, row, column].T
        return self._normalised(summed, "neck.3.")

    def _linear(self, values: Floats, name: str) -> Floats:
        product: Floats = values @ self._tensors[f"{name}weight"].T
        # Plain SAMs have biases everywhere; `qkv_bias` could leave one out.
        return product + self._tensors[f"{name}bias"] if f"{name}bias" in self._tensors else product

    def _normalised(self, values: Floats, name: str) -> Floats:
        centred = values - values.mean(axis=-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + np.float32(_EPSILON))
        normal: Floats = centred / deviation * self._tensors[f"{name}weight"] + self._tensors[f"{name}bias"]
        return normal


def _softmax(scores: Floats) -> Floats:
    raised: Floats = np.exp(scores - scores.max(axis=-1, keepdims=True))
    raised /= raised.sum(axis=-1, keepdims=True)
    return raised


def _gelu(values: Floats) -> Floats:
    size = np.abs(values) * np.float32(2**-0.5)
    step = 1 / (1 + np.float32(_ERF_SLOPE) * size)
    series = np.zeros_like(step)
    for term in reversed(_ERF_TERMS):
        series = (series + np.float32(term)) * step
    erf = np.copysign(1 - series * np.exp(-size * size), values)
    activated: Floats = values * np.float32(0.5) * (1 + erf)
    return activated
