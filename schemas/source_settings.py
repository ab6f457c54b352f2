"""Settings of SOURCE (how it is read, which images may be opened), and where weights come from."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from pseudoris.schemas.frozen import FrozenModel
from pseudoris.schemas.image_formats import EXTENSIONS


class WeightsConfig(FrozenModel):
    """Where a model's weights come from."""

    # A local path, an fsspec url, `builtin:<file>` for weights shipped in the package, `open_clip:<model>/<tag>` for a
    # hub tag, or `random:<seed>` for untrained weights.
    uri: str = Field(min_length=1)
    # Expected digest. A file with another digest is rejected before anything runs. None accepts any file.
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    # The command that the error for a missing file shows.
    how_to_get: str = ""


class SourceConfig(FrozenModel):
    """How SOURCE is read."""

    # auto: `.tar` is a WebDataset, `.parquet` a table; everything else is listed as image files.
    format: Literal["auto", "files", "webdataset", "parquet"] = "auto"
    # Lower-case. Files with other extensions are not listed, so that the user's notes do not count as broken images;
    # they are counted. With its plug-in (below) the default also lists HEIC.
    extensions: tuple[str, ...] = EXTENSIONS
    # Parquet: the first of these columns that exists is read; bytes come before uris.
    bytes_columns: tuple[str, ...] = ("bytes", "image_bytes", "image")
    # Parquet: the same, of columns of uris.
    uri_columns: tuple[str, ...] = ("uri", "url", "path")
    # Folder that relative uris start from and that local uris must stay in: a table is untrusted input. None is the
    # table's own folder. It must be absolute: a relative path is another folder in another process.
    uri_root: str | None = None
    # Custom S3 endpoint; None is AWS. Credentials come from the environment only.
    endpoint_url: str | None = Field(default=None, pattern=r"^https?://")
    # S3: you pay for the requests and the traffic. A requester-pays bucket refuses all other requests.
    requester_pays: bool = False

    @model_validator(mode="after")
    def _has_absolute_root(self) -> Self:
        path = (self.uri_root or "/").removeprefix("file://").removeprefix("local://")
        if "://" not in path and not Path(path).is_absolute():
            raise ValueError(f"uri_root {self.uri_root!r} is relative: give an absolute path, or an fsspec url")
        return self


class ImagesConfig(FrozenModel):
    """Limits of decoding. An image beyond them is quarantined."""

    # A 12,000 x 8,000 photograph passes. Raised, memory grows: every stage holds 3 bytes a pixel, and decoding and
    # cropping briefly a few more. Proposing peaks near 35 bytes a pixel (measured: 24 megapixels, `tiny`), plus an
    # eighth for each candidate.
    max_pixels: int = Field(default=100_000_000, ge=1)
    # Bounds the share of the object store that one image can take.
    max_bytes: int = Field(default=256 * 2**20, ge=1)
    # A decoder that takes longer is killed. Raise it for gigapixel TIFFs on slow disks.
    decoder_timeout_s: float = Field(default=60.0, gt=0)
    # Address space that the proving process may add after its start. Below about 4 bytes for each of `max_pixels`,
    # large valid images are quarantined.
    decoder_memory_bytes: int = Field(default=4 * 2**30, ge=2**28)
    # Modules that register further formats with Pillow when imported. `pillow_heif.HeifImagePlugin` (of the extra
    # `pseudoris[heif]`) reads HEIC, and adds its names to the default of `source.extensions`. Install them on every
    # node. None by default, because each is more code that reads untrusted bytes.
    decoder_plugins: tuple[str, ...] = ()
