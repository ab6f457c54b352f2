"""WebDataset tars with their index: a sample an image, under the image's id.

DEST/data-000000.tar      <image id>.jpg (or .png), <image id>.json, the next sample, …
DEST/index.json           the tars with sizes, digests and numbers of samples, as wids describes shards

The webdataset package 1.x streams the tars and reads no index; the indexed reader, a package of its own (wids), and
whoever splits shards by hand read the index.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from store.annotations import AnnotatedImage, AnnotatedMask
from training.exports.annotations import TextRule
from training.exports.coco_form import box_xywh, rle_of
from training.exports.files import new_file
from training.exports.fingerprints import Fingerprint
from training.exports.pictures import iter_pictures
from training.exports.protocol import ExportReport, ExportRequest, OnProgress
from training.exports.webdataset_check import check_tars
from training.exports.workspace import finish_place, nothing_left, take_place

NAME: Final = "webdataset"
INDEX_NAME: Final = "index.json"
_BLOCK_BYTES: Final = tarfile.BLOCKSIZE
# A tar ends with two empty blocks and is filled up to whole records.
_END_BYTES: Final = 2 * tarfile.BLOCKSIZE + tarfile.RECORDSIZE


class WebdatasetExport:
    """Tars of at most `target_bytes`, unless a single sample is larger."""

    summary = "tars with an index, a sample an image, for webdataset and wids"
    reads = frozenset({"max_tokens", "target_bytes"})
    default_max_tokens: int | None = None

    def write(self, request: ExportRequest, on_progress: OnProgress) -> ExportReport:
        """Write one tar after the other and then the index; read every tar back."""
        take_place(request, NAME, ())
        writing = _Writing(request)
        tars = list(writing.tars(on_progress))
        index = _index(tars)
        request.destination.replace(INDEX_NAME, index)
        check_tars(request.destination, INDEX_NAME, due=writing.written, on_progress=on_progress)
        num_samples = sum(tar.num_samples for tar in tars)
        rows = {"samples": num_samples, "masks": writing.written.num_masks, "expressions": writing.written.num_texts}
        finish_place(request, NAME, {"rows": rows, "dropped": dict(writing.dropped)})
        return ExportReport(
            rows=rows,
            files={"samples": len(tars)},
            size_bytes=sum(tar.size_bytes for tar in tars) + len(index),
            dropped=writing.dropped,
            notes=("The index names the tars relative to itself; the webdataset package takes their paths as a list.",),
            checked=(
                "every tar has the size, the digest and the samples that the index says",
                "every image has the size of its masks; every mask decodes; all masks and expressions are the run's",
                "keys are unique in their tar; no expression is empty",
            ),
        )


@dataclass(frozen=True, slots=True)
class _Tar:
    """A written tar."""

    name: str
    num_samples: int
    size_bytes: int
    md5: str


class _Writing:
    """Samples on their way into tars."""

    def __init__(self, request: ExportRequest) -> None:
        self._request = request
        self.dropped: Counter[str] = Counter()
        self.written = Fingerprint()

    def tars(self, on_progress: OnProgress) -> Iterator[_Tar]:
        """Write the tars; each stands, whole, when it is yielded."""
        samples = self._samples(on_progress)
        sample = next(samples, None)
        if sample is None:
            raise nothing_left(self._request, self.dropped)
        number = 0
        while sample is not None:
            name = f"data-{number:06d}.tar"
            with new_file(self._request.destination, name) as path:
                num_samples = 0
                # The oldest form that holds these names: plain blocks, which every reader of tars understands.
                with path.open("wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                    room = self._request.target_bytes - _END_BYTES
                    while sample is not None and (not num_samples or tar.offset + _size_in_tar(sample) <= room):
                        _add(tar, sample)
                        num_samples += 1
                        sample = next(samples, None)
                written = _Tar(name, num_samples, path.stat().st_size, _md5_of(path))
            yield written
            number += 1

    def _samples(self, on_progress: OnProgress) -> Iterator[dict[str, bytes]]:
        """Yield the files of each sample by their names."""
        rule = TextRule(self._request.options.max_tokens)
        for image, picture in iter_pictures(self._request, self.dropped, rule, on_progress):
            for mask in image.masks:
                texts = [expression.text for expression in mask.expressions]
                self.written.add(image.image_id, mask.rle_size, mask.rle_counts, texts)
            yield {
                f"{image.image_id}{PurePosixPath(picture.name).suffix}": picture.data,
                f"{image.image_id}.json": json.dumps(_sample_record(image), ensure_ascii=False).encode(),
            }


def _sample_record(image: AnnotatedImage) -> dict[str, Any]:
    return {
        "image_id": image.image_id,
        "key": image.key,
        "height": int(image.height),
        "width": int(image.width),
        "masks": [_mask_record(mask) for mask in image.masks],
    }


def _mask_record(mask: AnnotatedMask) -> dict[str, Any]:
    expressions = [
        {
            "text": expression.text,
            "head_noun": expression.head_noun,
            "uniqueness": expression.uniqueness,
            "correctness": expression.correctness,
            "distinctiveness": expression.distinctiveness,
            "weight": expression.weight,
        }
        for expression in mask.expressions
    ]
    return {
        "mask_id": mask.mask_id,
        "segmentation": rle_of(mask),
        "bbox": box_xywh(mask),
        "area": int(mask.area_px),
        "predicted_iou": mask.predicted_iou,
        "stability_score": mask.stability_score,
        "expressions": expressions,
    }


def _add(tar: tarfile.TarFile, sample: dict[str, bytes]) -> None:
    for name, data in sample.items():
        # As it is made, an entry has no time, no owner and mode 644: equal samples give equal bytes.
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))


def _size_in_tar(sample: dict[str, bytes]) -> int:
    return sum(_BLOCK_BYTES + -(-len(data) // _BLOCK_BYTES) * _BLOCK_BYTES for data in sample.values())


def _md5_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _index(tars: list[_Tar]) -> bytes:
    shards = [
        {"url": tar.name, "md5sum": tar.md5, "nsamples": tar.num_samples, "filesize": tar.size_bytes} for tar in tars
    ]
    tree = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "name": "pseudoris", "shardlist": shards}
    return json.dumps(tree, indent=2).encode() + b"\n"
