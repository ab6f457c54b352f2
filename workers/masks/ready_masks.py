"""The mask stage without SAM: reads one SA-1B JSON file per image from a folder. Built by `workers/stages.py`.

`--set masks.engine=ready --set masks.options.folder=/data/sa1b_masks`; docs/guides/masks.md has the format. Most
of the masks are parts of objects, so the reduction, or an instance prior, chooses among them. The thresholds of the
generation (`masks.pred_iou_thresh` and the like) are not applied. The files are untrusted: everything must be checked,
and a bad file costs its own image alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final, Self
from urllib.parse import unquote_to_bytes

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pseudoris.files.filesystems import filesystem_at, open_at
from pseudoris.primitives import rle
from pseudoris.primitives.errors import ConfigError, ImageError, TransientError, gather
from pseudoris.primitives.rle import MaskSizeError, compressed_counts
from pseudoris.primitives.untrusted import parse_json
from pseudoris.schemas.config import ComputeConfig, MasksConfig, RunConfig
from pseudoris.schemas.frozen import FrozenModel
from pseudoris.schemas.shard import PROPOSED, Shard, ShardImage
from pseudoris.workers.crops.shard_pixels import prefetched_pixels
from pseudoris.workers.device import prepare_device
from pseudoris.workers.faults.quarantine import apply_to_images
from pseudoris.workers.masks.instances import build_prior, num_dropped
from pseudoris.workers.masks.proposals import Proposals
from pseudoris.workers.stages import STAGE_PROPOSE, prior_digest

_SCORES: Final = ("predicted_iou", "stability_score")
# A score is at most this. Scores should lie in [0, 1], but a model may predict more. NaN and larger ones are refused.
_MAX_SCORE: Final = 10.0


class ReadyOptions(FrozenModel):
    """`masks.options` of the engine `ready`."""

    # The masks of `a/b.jpg` in SOURCE are in `a/b.json` of this folder, those of a tar's member `b.jpg` in `b.json`. It
    # must be absolute: a relative path is another folder in another process.
    folder: str = Field(min_length=1)
    # A JSON file may have this many bytes. SA-1B's largest ones have 10 MB. A parsed file takes ten times its size.
    max_bytes: int = Field(default=64 * 2**20, ge=1)
    # An image may have this many masks. Each is compared with every other one, which takes 8 bytes of memory per pair.
    max_masks: int = Field(default=4_096, ge=1)

    @model_validator(mode="after")
    def _is_absolute(self) -> Self:
        path = self.folder.removeprefix("file://").removeprefix("local://")
        if "://" not in path and not Path(path).is_absolute():
            raise ValueError(f"folder {self.folder!r} is relative: give an absolute path, or an fsspec url")
        return self


class ReadyProposer:
    """Reads the masks of each image and reduces them to objects.

    A mask's index, and so its id, is its position in the file, not counting masks without pixels.
    """

    _num_dropped: Callable[[Proposals], int | None] = staticmethod(lambda _: None)

    def __init__(self, config: MasksConfig, compute: ComputeConfig) -> None:
        """Find the folder, and load the instance prior."""
        self._masks = ReadyMasks(_options(config))
        self._device = prepare_device(compute)
        self._prior = build_prior(config, self._device)

    @classmethod
    def of_run(cls, config: RunConfig) -> Self:
        """As of `SamProposer`."""
        proposer = cls(config.masks, config.compute)
        proposer._num_dropped = partial(num_dropped, config=config)
        return proposer

    @classmethod
    def weights_digest(cls, config: MasksConfig) -> str:
        """Return a digest of the folder's name and, if there is one, of the prior's file.

        The files in the folder are not hashed, because that may take a day. They must not change during a run.
        """
        _, prior = gather(lambda: ReadyMasks(_options(config)), partial(prior_digest, config.prior))
        named = f"ready {_options(config).folder.rstrip('/')} {prior or ''}"
        return hashlib.sha256(named.encode()).hexdigest()

    def __call__(self, shard: Shard) -> Shard:
        """Return the shard with `masks` set on every image that is not quarantined; () where none survives."""
        with prefetched_pixels(shard.images, self._device) as decode:
            return apply_to_images(shard, STAGE_PROPOSE, lambda image: self._propose(image, decode(image)))

    def _propose(self, image: ShardImage, pixels: NDArray[np.uint8]) -> ShardImage:
        proposals = self._masks.proposals(image.key, (pixels.shape[0], pixels.shape[1]))
        proposals = replace(proposals, left={PROPOSED: len(proposals)})
        kept = self._prior(image, pixels, proposals).onto(image, proposals)
        return replace(kept, num_too_small=self._num_dropped(proposals))


def _options(config: MasksConfig) -> ReadyOptions:
    return config.options_as(ReadyOptions, "--set masks.options.folder=/absolute/path")


class ReadyMasks:
    """A folder of SA-1B JSON on a disk or in a bucket."""

    def __init__(self, options: ReadyOptions) -> None:
        """Check that the folder exists; no file is opened."""
        self._options, folder = options, options.folder
        try:
            self._files, root = filesystem_at(folder)
            is_there = self._files.isdir(root)
        except Exception as error:  # each file system has its own exception types
            raise ConfigError(f"masks.options.folder={folder} cannot be reached: {error}") from error
        if not is_there:
            raise ConfigError(
                f"masks.options.folder={folder} is not a folder: give the folder with the masks' JSON files"
            )
        self._root = root.rstrip("/")

    def proposals(self, key: str, size: tuple[int, int]) -> Proposals:
        """Return the masks of an upright image (H, W) in the order of their file, without masks that have no pixels.

        Raises:
            ImageError: `annotation_missing`, `annotation_mismatch` (another size), `annotation_damaged`, or
                `refused_uri` if the key points outside the folder.
        """
        path = json_name(key)
        # The name goes into messages, which must be UTF-8.
        name = path.encode("utf-8", "backslashreplace").decode()
        rows = _rows(self._read(path, name), name, size)
        if len(rows) > (most := self._options.max_masks):
            raise _damaged(f"{name} holds {len(rows):,} masks, masks.options.max_masks allows {most:,}")
        named = [(row, f"{name}: mask {number}") for number, row in enumerate(rows)]
        counts = [_counts(row, size, where) for row, where in named]
        scores = [[_score(row, field, where) for field in _SCORES] for row, where in named]
        return Proposals.of_masks(size, counts, *np.asarray(scores, dtype=np.float64).reshape(-1, len(_SCORES)).T)

    def _read(self, path: str, name: str) -> bytes:
        try:
            with open_at(self._files, f"{self._root}/{path}") as file:
                data: bytes = file.read(self._options.max_bytes + 1)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise ImageError("annotation_missing", f"masks.options.folder holds no {name}") from None
        except ConfigError:
            raise _damaged(f"{name} is not a file, but a pipe or a device") from None
        except MemoryError:
            raise
        except Exception as error:  # an error of the storage, of any type, is never the image's fault
            raise TransientError(f"cannot read {self._root}/{name}: {type(error).__name__}: {error}") from error
        if len(data) > self._options.max_bytes:
            raise _damaged(f"{name} is larger than masks.options.max_bytes = {self._options.max_bytes:,}")
        return data


def json_name(key: str) -> str:
    """Return the path of an image's masks below the folder: the image's path, or its name in its tar, with `.json`.

    ImageError if a row of a table has no name, or a name leads out of the folder.
    """
    if "#" in key:
        raise ImageError(
            "annotation_missing", "ready masks are found by an image's file name; rows of tables have none"
        )
    _, is_member, member = key.partition("!")
    path = PurePosixPath(unquote_to_bytes(member if is_member else key).decode("utf-8", "surrogateescape"))
    if path.is_absolute() or ".." in path.parts or not path.name or "\0" in path.name:
        raise ImageError("refused_uri", "the image's name leaves masks.options.folder")
    return str(path.with_suffix(".json"))


def _rows(data: bytes, name: str, size: tuple[int, int]) -> list[Any]:
    try:
        document = parse_json(data)
    except ValueError as error:
        raise _damaged(f"{name} does not read as JSON") from error
    rows = document.get("annotations") if isinstance(document, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise _damaged(f"{name} is no SA-1B JSON: an object with a list named annotations is needed")
    image = document.get("image")
    stated = [image.get(side) for side in ("height", "width")] if isinstance(image, dict) else [None, None]
    if stated != [None, None] and stated != list(size):
        raise ImageError(
            "annotation_mismatch",
            f"{name} is of an image of another size than the upright one, {size[0]} x {size[1]} (height x width)",
        )
    return rows


def _counts(row: Mapping[str, Any], size: tuple[int, int], where: str) -> str:
    try:
        counts = compressed_counts(row.get("segmentation"), size)
    except MaskSizeError as error:
        raise ImageError("annotation_mismatch", f"{where}: {error}") from error
    except ValueError as error:
        raise _damaged(f"{where}: {error}") from error
    if counts is None or not rle.is_valid(counts, size):
        raise _damaged(f"{where} is no RLE of {size[0]} x {size[1]} pixels")
    return counts


def _score(row: Mapping[str, Any], name: str, where: str) -> float:
    """Return a score, NaN if it is not stated."""
    value = row.get(name)
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or not -_MAX_SCORE <= value <= _MAX_SCORE:
        raise _damaged(f"{where} has a {name} that is no number of a score")
    return float(value)


def _damaged(message: str) -> ImageError:
    return ImageError("annotation_damaged", message)
