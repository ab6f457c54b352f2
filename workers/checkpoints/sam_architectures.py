"""The numbers of each SAM architecture, by name or from a user's file.

Called by `masks/sam_model.py`, `evidence/recipes`, and for digests by `workers/stages.py`, so it must not import torch.
The numbers of a name must never change: a run's identity holds the name alone.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from pydantic import Field, ValidationError, model_validator

from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.untrusted import open_linked
from pseudoris.schemas.frozen import FrozenModel

# At most this many bytes of a file are read. A file with all thirteen numbers has a few hundred bytes.
_MAX_FILE_BYTES: Final = 2**16


class SamArchitecture(FrozenModel):
    """The numbers that `segment_anything`'s modules are built from; `image_size` is in pixels, widths are in units.

    Source: segment-anything 1.0, build_sam.py, for ViT-B, L and H.
    """

    image_size: int = Field(default=1024, ge=32)
    patch_size: int = Field(default=16, ge=4)
    encoder_width: int = Field(ge=8)
    encoder_depth: int = Field(ge=1)
    encoder_heads: int = Field(ge=1)
    # These blocks attend to the whole image. The others attend within windows of `window_size` patches.
    encoder_global_blocks: tuple[int, ...]
    window_size: int = Field(default=14, ge=0)
    prompt_width: int = Field(default=256, ge=8)
    decoder_depth: int = Field(default=2, ge=1)
    decoder_heads: int = Field(default=8, ge=1)
    decoder_mlp_width: int = Field(default=2048, ge=8)
    iou_head_depth: int = Field(default=3, ge=1)
    iou_head_width: int = Field(default=256, ge=8)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        if self.encoder_width % self.encoder_heads:
            raise ValueError(f"encoder_width {self.encoder_width} is not a multiple of heads {self.encoder_heads}")
        out = [b for b in self.encoder_global_blocks if not 0 <= b < self.encoder_depth]
        if out:
            raise ValueError(f"encoder_global_blocks {out} lie outside 0..{self.encoder_depth - 1}")
        return self


SAM_ARCHITECTURES: Final[Mapping[str, SamArchitecture]] = {
    "vit_b": SamArchitecture(
        encoder_width=768, encoder_depth=12, encoder_heads=12, encoder_global_blocks=(2, 5, 8, 11)
    ),
    "vit_l": SamArchitecture(
        encoder_width=1024, encoder_depth=24, encoder_heads=16, encoder_global_blocks=(5, 11, 17, 23)
    ),
    "vit_h": SamArchitecture(
        encoder_width=1280, encoder_depth=32, encoder_heads=16, encoder_global_blocks=(7, 15, 23, 31)
    ),
    # This is our own model. It is in the package, and small enough for a CPU.
    "tiny": SamArchitecture(
        image_size=192,
        patch_size=12,
        encoder_width=144,
        encoder_depth=4,
        encoder_heads=4,
        encoder_global_blocks=(0, 1, 2, 3),
        prompt_width=64,
        decoder_heads=4,
        decoder_mlp_width=256,
        iou_head_width=64,
    ),
}


def sam_architecture(name: str | None) -> SamArchitecture:
    """Return the numbers of an architecture, by its name or from a JSON file with the fields of `SamArchitecture`."""
    if name is None:
        raise ConfigError(f"masks.architecture is not set: choose from {', '.join(SAM_ARCHITECTURES)}")
    if name in SAM_ARCHITECTURES:
        return SAM_ARCHITECTURES[name]
    if not name.endswith(".json"):
        near = difflib.get_close_matches(name, SAM_ARCHITECTURES, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(
            f"SAM architecture {name!r} is not known: choose from {', '.join(SAM_ARCHITECTURES)}, or give the path of "
            f"a JSON file with its numbers{hint}"
        )
    try:
        with open_linked(Path(name)) as file:
            return SamArchitecture.model_validate_json(file.read(_MAX_FILE_BYTES))
    except OSError as error:
        raise ConfigError(f"SAM architecture {name!r} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        where = ".".join(map(str, item["loc"])) or "the file"
        raise ConfigError(f"SAM architecture {name!r}: {where}: {item['msg'].removeprefix('Value error, ')}") from None


def architecture_digest(name: str | None) -> str | None:
    """Return the sha256 of an architecture's numbers, or None for one of ours, whose name says them."""
    numbers = sam_architecture(name)
    return None if name in SAM_ARCHITECTURES else hashlib.sha256(numbers.model_dump_json().encode()).hexdigest()
