"""Small runs in memory as a map-style dataset: any mask by its number. For `training`, `mixed_dataset.py` and users.

Equal numbers in an epoch give equal samples, on every rank and in every worker. Users depend on `RisDataset` and
`JoinedDataset`.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pseudoris.files.location import RunLocation
from pseudoris.interchange.dataset.sample_builder import build_sample
from pseudoris.interchange.dataset.sample_spec import SampleSpec, Transform
from pseudoris.interchange.dataset.shard_reader import FULL_WEIGHT, DatasetRun
from pseudoris.interchange.dataset.snapshot import Snapshot
from pseudoris.interchange.dataset.streamed_dataset import STATE_VERSION, refuse_another
from pseudoris.interchange.dataset.torch_names import Dataset, SharedNumbers, Tensor
from pseudoris.primitives.errors import ConfigError, ImageError
from pseudoris.primitives.uris import whole_number

DEFAULT_MAX_MEMORY_BYTES: Final = 4 * 2**30

# Maps a dataset's `id`, a shard's row in its snapshot and an image's index in the shard to (3, H, W) uint8 pixels.
Decoded = dict[tuple[int, int, int], Tensor]


class ConcatIndex:
    """Finds an item in one of several parts that are joined in order, by their lengths, at least one."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self._ends = np.cumsum(lengths)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def of(self, index: int, *, noun: str) -> tuple[int, int]:
        """Return the part of an item, and its index there; a negative index counts from the end, `noun` names it."""
        index = whole_number(index, "dataset")
        if not -len(self) <= index < len(self):
            raise IndexError(f"{noun} {index} of {len(self)}")
        at = index % len(self)
        part = int(np.searchsorted(self._ends, at, side="right"))
        return part, at - (int(self._ends[part - 1]) if part else 0)


class MapDataset(Dataset[Any]):
    """Masks by number, in epochs that differ in the expressions that are drawn: one run, several, or a mix.

    What stands here is that of several, one after the other; `RisDataset` is one.
    """

    def __init__(self, parts: Sequence[MapDataset]) -> None:
        """Take at least one part."""
        self._parts = list(parts)
        self._concat = ConcatIndex([len(part) for part in parts])

    @property
    def epoch(self) -> int:
        """Which draw of expressions is given."""
        return self._parts[0].epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the draw of expressions; persistent workers see it too. A sampler has its own epoch."""
        for part in self._parts:
            part.set_epoch(epoch)

    @property
    def num_skipped(self) -> int:
        """How often another mask was returned because the image of the requested one cannot be used."""
        return sum(part.num_skipped for part in self._parts)

    def __len__(self) -> int:
        """Return the number of masks."""
        return len(self._concat)

    def draw(self, index: int, epoch: int, decoded: Decoded) -> Any:
        """Return the sample of a mask with the expressions of an epoch; `decoded` is read from, and added to."""
        part, at = self._concat.of(index, noun="mask")
        return self._parts[part].draw(at, epoch, decoded)

    def mask_ids(self) -> list[str]:
        """Return the id of every item's mask, in order; a mask of two runs comes twice."""
        return [mask for part in self._parts for mask in part.mask_ids()]

    def best_weights(self) -> NDArray[np.float64]:
        """Return the largest `weight` of each item's expressions, (N,) float64; 1 for other draws than `weighted`."""
        return np.concatenate([part.best_weights() for part in self._parts])

    def image_digests(self) -> list[str]:
        """Return for every item the sha256 of its image's bytes, as annotated: ids are unique only within one run."""
        return [digest for part in self._parts for digest in part.image_digests()]

    def all_images(self) -> frozenset[str]:
        """Return the sha256 of the images of every epoch's items."""
        return frozenset(self.image_digests())

    def __getitem__(self, index: int) -> Any:
        """Return a sample, or the transform's result.

        Raises:
            IndexError: There is no such item.
            ConfigError: Its image cannot be used. With `on_bad_image="skip"`, the next usable mask is returned instead.
        """
        return self.draw(index, self.epoch, {})

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return the samples of a batch, as `[]` does; an image is decoded once for all of its masks in the batch."""
        decoded: Decoded = {}
        return [self.draw(index, self.epoch, decoded) for index in indices]


class RisDataset(SharedNumbers, MapDataset):
    """All masks of a small run that keep an expression, in plan order, for torch's samplers.

    The tables are held in memory, and so are the encoded images if the run embeds them; images of SOURCE are read one
    by one, on demand. Forked loader workers share that memory. For larger runs: `RisIterableDataset`.
    """

    def __init__(
        self,
        run: str | Path | RunLocation,
        spec: SampleSpec | None = None,
        *,
        snapshot: Snapshot | None = None,
        transform: Transform | None = None,
        endpoint_url: str | None = None,
        max_memory_bytes: int = DEFAULT_MAX_MEMORY_BYTES,
    ) -> None:
        """Read a run.

        Args:
            run: Its folder or url, or its location.
            spec: Which samples and what of them; everything that was kept by default.
            snapshot: The commits to read; `Snapshot.shared` by default, so that all ranks read the same.
            transform: Applied to each sample last; its result is the item.
            endpoint_url: Address of an S3 store other than AWS; None reads AWS_ENDPOINT_URL.
            max_memory_bytes: A run with more bytes of embedded images is refused.

        Raises:
            ConfigError: There is no run, nothing of it is committed, the filter keeps nothing, or it is too large.
        """
        self._endpoint_url = endpoint_url
        self._max_memory_bytes = max_memory_bytes
        self._transform = transform
        super().__init__()
        self._read(run, spec or SampleSpec(), snapshot)

    @property
    def snapshot(self) -> Snapshot:
        """Which commits are read."""
        return self._run.snapshot

    def draw(self, index: int, epoch: int, decoded: Decoded, *, among: NDArray[np.int64] | None = None) -> Any:
        """Return the sample of a mask with the expressions of an epoch; raises as `[]` does.

        `among` are the masks that may replace one whose image cannot be used, (C,) ascending, `index` among them; all
        by default.
        """
        self._concat.of(index, noun="mask")
        first = index % len(self) if among is None else int(np.searchsorted(among, index % len(self)))
        num_stand_ins = len(self) if among is None else len(among)
        for stand_in in range(num_stand_ins):
            at = (first + stand_in) % num_stand_ins
            row, mask = self._concat.of(at if among is None else int(among[at]), noun="mask")
            content, reader = self._contents[row], self._run.images
            image = int(np.searchsorted(content.index.first_masks, mask, side="right")) - 1
            place, pixels = (id(self), row, image), None
            if reader is not None and content.images is not None:
                try:
                    pixels = decoded.get(place)
                    if pixels is None:
                        pixels = decoded[place] = reader.decode(content.images, image)
                except ImageError as error:
                    if self._run.spec.on_bad_image == "raise":
                        raise reader.explained(content.images.keys[image], error) from error
                    self._count_skipped()
                    continue
            # Each sample gets its own copy, because a transform may write into it.
            sample = build_sample(self._run.spec, content, image, mask, epoch=epoch, pixels=deepcopy(pixels))
            return sample if self._transform is None else self._transform(sample)
        raise ConfigError(
            f"None of the {num_stand_ins} masks that could replace this one has a usable image. Put the annotated "
            "files back, or say where they are (source=…)."
        )

    def mask_ids(self) -> list[str]:
        """Return the id of every mask, in order."""
        return [mask_id for content in self._contents for mask_id in content.index.mask_ids]

    def best_weights(self) -> NDArray[np.float64]:
        """Return the largest `weight` of each mask's expressions."""
        parts = [np.zeros(0)]
        for content in self._contents:
            weights = np.ones(content.index.num_masks)
            if self._run.spec.draw == "weighted" and content.draw_weights is not None and content.index.num_masks:
                weights = np.maximum.reduceat(content.draw_weights, content.index.first_rows[:-1]) / FULL_WEIGHT
            parts.append(weights)
        return np.concatenate(parts)

    def image_digests(self) -> list[str]:
        """Return for every mask the sha256 of its image."""
        digests: list[str] = []
        for content in self._contents:
            if not content.index.num_masks:
                # The images of a shard without a mask are not read, so there are no digests to add.
                continue
            if content.images is None:
                raise ConfigError("Images are not read. Add 'image' to parts.")
            digests += np.repeat(content.images.sha256, np.diff(content.index.first_masks)).tolist()
        return digests

    def describe(self) -> dict[str, Any]:
        """Return, as JSON, what decides the samples: the snapshot and the spec."""
        return {"snapshot": self._run.snapshot.state(), **self._run.spec.as_json()}

    def state_dict(self) -> dict[str, Any]:
        """Return, as JSON, the epoch and what decides the samples; the sampler keeps the position in an epoch."""
        return {"version": STATE_VERSION, "epoch": self.epoch, "dataset": self.describe()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Read the snapshot of a saved state, and choose its epoch.

        Raises:
            ConfigError: It is of another version, was saved with another spec, or the run holds its snapshot no more.
        """
        own = self.describe()
        refuse_another(own, state, "other samples")
        saved = state["dataset"]
        if own["snapshot"]["digest"] != saved["snapshot"]["digest"]:
            location = self._run.location
            self._read(location, self._run.spec, Snapshot.from_state(location, saved["snapshot"]))
        self.set_epoch(state["epoch"])

    def _read(self, run: str | Path | RunLocation, spec: SampleSpec, snapshot: Snapshot | None) -> None:
        opened = DatasetRun.open(run, spec, snapshot, endpoint_url=self._endpoint_url, is_random_access=True)
        size_bytes = opened.snapshot.images_bytes
        is_embedded = opened.images is not None and opened.header.config.shards.embed_images
        if is_embedded and size_bytes > self._max_memory_bytes:
            raise ConfigError(
                f"The run embeds {size_bytes:,} bytes of images. A RisDataset holds them in memory, up to "
                f"max_memory_bytes={self._max_memory_bytes:,}. Use RisIterableDataset, or raise max_memory_bytes."
            )
        contents = [opened.content(row) for row in range(len(opened.snapshot))]
        concat = ConcatIndex([content.index.num_masks for content in contents])
        if not len(concat):
            raise opened.nothing_passes()
        self._run, self._contents, self._concat = opened, contents, concat


class JoinedDataset(MapDataset):
    """All masks of several runs, one run after the other.

    The same image in two runs gives items from each: with other masks, other expressions, or both.
    """

    def __init__(self, runs: Sequence[MapDataset]) -> None:
        """Join datasets, at least one."""
        if not runs:
            raise ConfigError("There is no run to join. Give at least one.")
        super().__init__(runs)
