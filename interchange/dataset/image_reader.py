"""Reads a shard's encoded images from its table or SOURCE, and decodes them. Called by `shard_reader` and `training`.

An image must be the annotated one: other bytes or another size are an error. `decode_plain_jpeg` must give the same
pixels as `decode_upright`; it saves a third of the work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from pseudoris.files.location import RunLocation
from pseudoris.images.pixels import decode_upright, import_plugins, is_plain_jpeg, loaded_plugins
from pseudoris.interchange.dataset.torch_names import HAS_TORCH, Tensor, as_tensor
from pseudoris.primitives.errors import ConfigError, ImageError
from pseudoris.primitives.uris import places
from pseudoris.schemas.config import ImagesConfig, RunConfig
from pseudoris.schemas.run_records import RunHeader
from pseudoris.store.sources.planned_images import Outcome
from pseudoris.store.tables.image_bytes import MOVED, PlannedImages

_COLUMNS: Final = ("image_id", "key", "sha256", "height", "width")


@dataclass(frozen=True, slots=True)
class ShardImages:
    """Encoded images of one shard, in the requested order, with sha256 and upright (height, width) as annotated.

    An outcome is the bytes, or the error; None if they are read on demand.
    """

    shard: int
    keys: Sequence[str]
    sha256: Sequence[str]
    sizes_px: Sequence[tuple[int, int]]
    outcomes: list[Outcome | None]


class ImageBytes:
    """Reads encoded images and decodes them as annotation did. Can be pickled; each process opens its storage."""

    def __init__(
        self,
        location: RunLocation,
        header: RunHeader,
        *,
        source: str | Path | Mapping[str, str | Path] | None = None,
        endpoint_url: str | None = None,
        is_random_access: bool = False,
    ) -> None:
        """Wire it; `source` is as of `PlannedImages`.

        `endpoint_url` is the S3 store of the images, if the run names none. With random access, images of SOURCE are
        read one by one, as they are decoded, and the plans of all shards are kept.
        """
        moved = places(source, "source")

        def asked(config: RunConfig) -> RunConfig:
            if endpoint_url is None or config.source.endpoint_url is not None:
                return config
            own = config.source.model_copy(update={"endpoint_url": endpoint_url})
            return config.model_copy(update={"source": own})

        self._header = header.with_configs(asked)
        self._source = moved if isinstance(moved, str) else (moved or {}).get(header.source, header.source)
        self._is_random_access = is_random_access
        self._planned = PlannedImages(location, self._header, source=moved, is_random_access=is_random_access)
        # The names of the decoder plug-ins are kept, because a spawned worker of a loader must import them again.
        plugins = (name for each in header.runs for name in each.config.images.decoder_plugins)
        self._plugins = loaded_plugins(tuple(dict.fromkeys(plugins)))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the images table that `of_shard` needs."""
        return (*_COLUMNS, "bytes") if self._header.config.shards.embed_images else _COLUMNS

    def of_shard(self, shard: int, rows: pa.Table) -> ShardImages:
        """Return the encoded images of `rows` of a shard's images table, with `columns`."""
        keys, sha256 = rows["key"].to_pylist(), rows["sha256"].to_pylist()
        embedded = rows["bytes"].to_pylist() if "bytes" in rows.column_names else [None] * len(keys)
        sizes = list(zip(rows["height"].to_pylist(), rows["width"].to_pylist(), strict=True))
        if self._is_random_access:
            return ShardImages(shard, keys, sha256, sizes, embedded)
        # Embedded bytes are not compared with their sha256, because the pages of the Parquet file have checksums.
        compared = [known if data is None else None for known, data in zip(sha256, embedded, strict=True)]
        outcomes = self._planned.outcomes(shard, list(zip(keys, compared, embedded, strict=True)))
        return ShardImages(shard, keys, sha256, sizes, list(outcomes))

    def decode(self, images: ShardImages, at: int) -> Tensor:
        """Return the image at a position, (3, H, W) uint8 RGB, upright, contiguous.

        It is an ImageError if it is missing, or not the one that was annotated; a ConfigError if it needs a decoder
        plug-in of the run that the user has not imported.
        """
        outcome = images.outcomes[at]
        if outcome is None:
            (outcome,) = self._planned.outcomes(images.shard, [(images.keys[at], images.sha256[at], None)])
        if isinstance(outcome, ImageError):
            raise outcome
        import_plugins(self._plugins)
        limits = self._header.of_shard(images.shard).config.images
        pixels = decode_plain_jpeg(outcome, limits)
        if pixels is None:
            upright = decode_upright(outcome, limits)
            pixels = as_tensor(np.ascontiguousarray(upright.transpose(2, 0, 1)))
        size = tuple(pixels.shape[1:])
        if size != tuple(images.sizes_px[at]):
            raise ImageError(
                "changed", f"it decodes to {size} (height, width), but the annotated image had {images.sizes_px[at]}"
            )
        return pixels

    def explained(self, key: str, error: ImageError) -> ConfigError:
        """Return the error to raise in a training for an image that cannot be used."""
        return ConfigError(
            f"image {key} of {self._source} cannot be used ({error.reason}: {error.message}). Put the annotated file "
            f"back, or leave its masks out (on_bad_image='skip'). If the images were moved, {MOVED}."
        )


def decode_plain_jpeg(data: bytes, limits: ImagesConfig) -> Tensor | None:
    """Return what `decode_upright` returns for an upright JPEG with grey or RGB samples, (3, H, W); None for others.

    Both decoders are libjpeg-turbo with its default settings. Also None without torch, beyond the limits, and if
    torchvision lacks JPEG or refuses the bytes, so that `decode_upright` gives the reason.
    """
    if not HAS_TORCH:
        return None
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    try:
        if not is_plain_jpeg(data, limits):
            return None
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        pixels: Tensor = decode_jpeg(encoded, mode=ImageReadMode.RGB)
        return pixels.contiguous()
    except (ImageError, RuntimeError):
        return None
