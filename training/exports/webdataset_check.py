"""Reads a WebDataset export back, as a stream, tar by tar of its index."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast

from schemas.errors import ImageError
from store.location import RunLocation
from training.exports.fingerprints import Fingerprint
from training.exports.mask_checks import broken, check_mask, check_texts
from training.exports.protocol import CHECKING, OnProgress
from workers.images.decoding import upright_size


def check_tars(destination: RunLocation, index: str, *, due: Fingerprint, on_progress: OnProgress) -> None:
    """Read the tars that the index names, and compare them with it and with what was written.

    Raises:
        TransientError: Something is not as it was written; the message says which tar and sample.
    """
    found = Fingerprint()
    for shard in json.loads(destination.read_bytes(index))["shardlist"]:
        where = destination.uri(shard["url"])
        with destination.open_input(shard["url"]) as file:
            stream = _Digesting(file)
            keys = set[str]()
            for key, image, record in _samples(stream, where):
                if key in keys or record["image_id"] != key:
                    raise broken(where, f"sample {key} stands there twice, or holds another image's masks")
                keys.add(key)
                _add_sample(found, key, image, record, where)
            stream.drain()
        if (len(keys), stream.size_bytes, stream.md5) != (shard["nsamples"], shard["filesize"], shard["md5sum"]):
            raise broken(where, "its samples, its size or its digest are not those of the index")
        on_progress(found.num_masks, due.num_masks, CHECKING)
    due.check_equals(found, destination.root)


class _Digesting:
    """Passes a stream on and digests it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._md5 = hashlib.md5(usedforsecurity=False)
        self.size_bytes = 0

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._md5.update(data)
        self.size_bytes += len(data)
        return data

    def drain(self) -> None:
        """Read what is left: a tar ends before its file does."""
        while self.read(2**20):
            pass

    @property
    def md5(self) -> str:
        return self._md5.hexdigest()


def _samples(stream: _Digesting, where: str) -> Iterator[tuple[str, bytes, Mapping[str, Any]]]:
    """Yield key, image and record of each sample: two entries each, the image first."""
    try:
        with tarfile.open(fileobj=cast(BinaryIO, stream), mode="r|") as tar:
            image: tuple[PurePosixPath, bytes] | None = None
            for entry in tar:
                name, file = PurePosixPath(entry.name), tar.extractfile(entry)
                data = b"" if file is None else file.read()
                # Of a stream the entries that were read are kept for nothing.
                tar.members = []  # type: ignore[attr-defined]
                if image is None:
                    image = name, data
                elif (name.stem, name.suffix) == (image[0].stem, ".json"):
                    yield name.stem, image[1], json.loads(data)
                    image = None
                else:
                    raise broken(where, f"{name} follows {image[0]}: they are not one sample")
            if image is not None:
                raise broken(where, f"{image[0]} is without its masks")
    except (tarfile.TarError, ValueError) as error:
        raise broken(where, str(error)) from error


def _add_sample(found: Fingerprint, key: str, image: bytes, record: Mapping[str, Any], where: str) -> None:
    size = (record["height"], record["width"])
    try:
        image_size = upright_size(image)
    except ImageError as error:
        raise broken(where, f"the image of sample {key} does not read ({error})") from error
    if image_size != size:
        raise broken(where, f"the image of sample {key} is {image_size}, its masks {size} (height, width)")
    for mask in record["masks"]:
        place = f"{where}, mask {mask['mask_id']}"
        texts = check_texts([expression["text"] for expression in mask["expressions"]], place)
        if not texts:
            raise broken(place, "it has no expression")
        found.add(key, size, check_mask(mask, size, place), texts)
