"""Exports WebDataset tars with their index: a sample per image, under the image's id. In `EXPORTS` for `cli/export`.

DEST/data-<sha256>-000000.tar      <image id>.jpg (or .png), <image id>.json, the next sample, …
DEST/index.json           the tars with sizes, digests and numbers of samples, as wids describes shards

The names of the tars hold a digest of the export's content, because readers cache a tar by its name. The webdataset
package 1.x streams the tars and reads no index; wids, a package of its own, reads the index.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Collection, Iterator
from pathlib import PurePosixPath
from typing import Any, Final

from pseudoris.interchange.exports.export_job import ExportFormat, ExportJob
from pseudoris.interchange.exports.export_options import ExportReport
from pseudoris.interchange.exports.output_files import add_to_tar
from pseudoris.interchange.exports.record import Content, written_counts
from pseudoris.primitives.errors import TransientError
from pseudoris.primitives.untrusted import parse_json, printable_json
from pseudoris.schemas.ids import sha256_hex

_INDEX_NAME: Final = "index.json"
_OF_EXPRESSION: Final = ("head_noun", "uniqueness", "correctness", "distinctiveness", "weight")
_BLOCK_BYTES: Final = tarfile.BLOCKSIZE
# The end of a tar takes at most this many bytes, for two empty blocks and the padding to a whole record.
_END_BYTES: Final = 2 * tarfile.BLOCKSIZE + tarfile.RECORDSIZE
# This number must rise if another release writes other bytes for the same image.
_VERSION: Final = 1


def _write(job: ExportJob, lacking: Collection[str] = ()) -> ExportReport:
    # The names depend on which images cannot be read (`lacking`, by id). If others turn out to be missing, all is
    # written again, once.
    job.claim()
    parts = [part.sha256 for receipt in job.request.run.receipts for part in receipt.parts.values()]
    rules = [(rule.kind, rule.settings, rule.values_sha256) for rule in job.request.exclusions]
    content = [_VERSION, parts, rules, job.options.max_tokens, job.options.target_mb, sorted(lacking)]
    content += [job.options.rewording] if job.options.rewording else []
    content += [job.splits] if job.has_splits else []
    stem, indices = f"data-{sha256_hex(json.dumps(content).encode())[:16]}", job.paths(_INDEX_NAME)
    stems = {split: stem if len(indices) == 1 else f"{stem}-{split}" for split in indices}
    tars = {split: list(_tars(job, of, split)) for split, of in stems.items()}
    if job.lacking.keys() != set(lacking):
        if lacking:
            raise TransientError("images of SOURCE come and go while they are read: export again once it is at rest")
        job.held.close()
        inner = ExportJob(WEBDATASET, job.request, job.on_progress, job.on_wait)
        with inner.held, inner.files:
            return _write(inner, job.lacking)
    tree = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "name": "pseudoris"}
    for split, path in indices.items():
        job.add_file(path, json.dumps({**tree, "shardlist": tars[split]}, indent=2).encode() + b"\n")
    return job.report(
        {"samples": job.num_images, "masks": job.written.num_masks, "expressions": job.written.num_texts},
        {"samples": sum(map(len, tars.values()))},
        notes=[
            f"The webdataset package takes {of}-{{000000..{len(held) - 1:06d}}}.tar; wids takes {indices[split]}."
            for (split, of), held in zip(stems.items(), tars.values(), strict=True)
            if held
        ],
        checked="every mask decodes to its image's size, box and area",
    )


_SUMMARY: Final = "tars with an index, one sample per image, for webdataset and wids"
WEBDATASET: Final = ExportFormat("webdataset", _SUMMARY, _write, reads=("max_tokens", "target_mb"))


def _tars(job: ExportJob, stem: str, split: str) -> Iterator[dict[str, Any]]:
    """Write tars of at most `target_bytes`, unless a sample is larger; yield what the index says of each."""
    samples = _new_samples(job, split)
    sample = next(samples, None)
    number = 0

    def size_in_tar(sample: dict[str, bytes]) -> int:
        return sum(_BLOCK_BYTES + -(-len(data) // _BLOCK_BYTES) * _BLOCK_BYTES for data in sample.values())

    while sample is not None:
        url = f"{stem}-{number:06d}.tar"
        with job.new_file(url) as path:
            num_samples = 0
            # USTAR is the oldest format that holds these names, and every reader of tars understands it.
            with path.open("wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                room = job.options.target_bytes - _END_BYTES
                while sample is not None and (not num_samples or tar.offset + size_in_tar(sample) <= room):
                    for entry_name, data in sample.items():
                        add_to_tar(tar, entry_name, data)
                    num_samples += 1
                    sample = next(samples, None)
            with path.open("rb") as whole:
                md5 = hashlib.file_digest(whole, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
            size_bytes = path.stat().st_size
        yield {"url": url, "md5sum": md5, "nsamples": num_samples, "filesize": size_bytes}
        number += 1


def _new_samples(job: ExportJob, split: str) -> Iterator[dict[str, bytes]]:
    for image in job.images(split=split):
        masks = []
        for mask, said in image.masks_with_texts():
            scores = [{name: getattr(each.record, name) for name in _OF_EXPRESSION} for each in said]
            texts = [{"text": each.text, **own, **each.origin} for each, own in zip(said, scores, strict=True)]
            of_mask = {"mask_id": mask.record.mask_id, "segmentation": mask.rle, **mask.measures}
            masks.append({**of_mask, "expressions": texts})
        (height, width), of_image = image.size, {"image_id": image.image_id, "key": image.key}
        record = {**of_image, "height": height, "width": width, "masks": masks}
        data = printable_json(record).encode()
        found = parse_json(data)
        size, measured = (found["height"], found["width"]), image.measured
        of_masks = [
            (written_counts(mask, size, measured), [each["text"] for each in mask["expressions"]])
            for mask in found["masks"]
        ]
        job.add(image.content(image.image_id), Content.of_masks(found["image_id"], size, of_masks))
        yield {f"{image.image_id}{PurePosixPath(image.name).suffix}": image.data, f"{image.image_id}.json": data}
