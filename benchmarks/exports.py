"""Measures every export format over runs of two sizes: seconds, and the peak of memory, which must not grow.

    python -m benchmarks.exports [--images 1000 4000] [--formats NAME…] [--to FOLDER] [--json FILE]

The runs are written by hand: small images, two masks each, and two expressions a mask, embedded. Each export is a
process of its own that also reads back what it wrote. What grows by design is named: refer and lmdb hold what their
trainers hold, all references and all keys; sam3 all distinct texts, of which these runs have few.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from benchmarks.measurement import machine, options, peak_rss_bytes, print_table, write_json
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.ids import image_id, mask_id, sha256_hex
from pseudoris.schemas.run_records import PlanEntry
from pseudoris.schemas.shard import ExpressionRecord, MaskRecord, Shard, ShardImage
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.commit import Provenance, commit_shard
from pseudoris.store.runs.manifest import write_manifest
from pseudoris.training.exports import EXPORTS, ExportOptions, export_request, find_export

_SIZE: Final = (48, 64)
_SHARD_IMAGES: Final = 256
# Different pictures; the others repeat them under names of their own.
_PICTURES: Final = 64
_TEXTS: Final = ("the left thing", "the thing on the right", "a round shape", "what is behind it")


def write_run(out: Path, num_images: int) -> None:
    """Write a finished run of so many images; equal numbers give equal runs."""
    # Not in the process of an export: it imports torch, whose memory would count.
    from benchmarks.dataset_inputs import start_run

    location = RunLocation.open(str(out))
    config = load_config("tiny", None, ["shards.embed_images=true", f"shards.max_images={_SHARD_IMAGES}"])
    keys = [f"{number:08d}.jpg" for number in range(num_images)]
    entries = [PlanEntry(*divmod(number, _SHARD_IMAGES), image_id(key), key) for number, key in enumerate(keys)]
    header = start_run(location, "drawn", entries, config)
    pictures = [_picture(number) for number in range(_PICTURES)]
    for first in range(0, num_images, _SHARD_IMAGES):
        of_shard = entries[first : first + _SHARD_IMAGES]
        images = tuple(_image(entry, *pictures[(first + at) % _PICTURES]) for at, entry in enumerate(of_shard))
        shard = Shard(first // _SHARD_IMAGES, 0, images)
        ids = [entry.image_id for entry in of_shard]
        provenance = Provenance(header_sha256=header.sha256)
        commit_shard(location, shard, planned_ids=ids, embed_images=True, provenance=provenance)
    write_manifest(location)


def _picture(number: int) -> tuple[bytes, list[tuple[str, tuple[int, int, int, int], int]]]:
    """Return a JPEG, and of each of its masks the encoding, the box and the area."""
    draw = np.random.default_rng(number)
    file = io.BytesIO()
    Image.fromarray(draw.integers(0, 256, (*_SIZE, 3), dtype=np.uint8)).save(file, "JPEG")
    masks = []
    for _ in range(2):
        rows, columns = np.ogrid[: _SIZE[0], : _SIZE[1]]
        y, x = draw.uniform(0.3, 0.7, 2) * _SIZE
        ring = np.hypot(rows - y, columns - x)
        pixels = (ring < draw.uniform(8, 14)) & (ring > 3)
        code = coco.encode(np.asfortranarray(pixels, np.uint8))
        x0, y0, width, height = (int(side) for side in coco.toBbox(code))
        masks.append((code["counts"].decode("ascii"), (x0, y0, x0 + width, y0 + height), int(pixels.sum())))
    return file.getvalue(), masks


def _image(entry: PlanEntry, data: bytes, masks: Sequence[tuple[str, tuple[int, int, int, int], int]]) -> ShardImage:
    records = tuple(
        MaskRecord(mask_id(entry.image_id, at), at, _SIZE, counts, box, area, 0.9, 0.95)
        for at, (counts, box, area) in enumerate(masks)
    )
    said = tuple(
        ExpressionRecord((mask.mask_id,), text, (), source="human", kept=True)
        for mask in records
        for text in _TEXTS[2 * mask.index : 2 * mask.index + 2]
    )
    digest, (height, width) = sha256_hex(data), _SIZE
    return ShardImage(entry.position, entry.image_id, entry.key, data, digest, height, width, None, None, records, said)


def export_once(run: str, to: str, name: str) -> dict[str, Any]:
    """Export in this process; return seconds, the peak of memory, and what was written."""
    began, before = time.monotonic(), peak_rss_bytes()
    report = find_export(name).write(
        export_request(run, to, name, ExportOptions()), lambda done, total, /, stage="": None
    )
    seconds = time.monotonic() - began
    return {"seconds": seconds, "imported_bytes": before, "peak_bytes": peak_rss_bytes(), "bytes": report.size_bytes}


def measure(counts: Sequence[int], names: Sequence[str], folder: Path) -> Iterator[dict[str, Any]]:
    """Yield a row a format and number of images."""
    for num_images in counts:
        run = folder / f"run-{num_images}"
        write_run(run, num_images)
        for name in names:
            to = folder / f"{name}-{num_images}"
            words = [sys.executable, "-m", "benchmarks.exports", str(run), str(to), name]
            done = subprocess.run(words, check=True, capture_output=True, text=True)
            yield {"format": name, "images": num_images, **json.loads(done.stdout.splitlines()[-1])}
            shutil.rmtree(to)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, print the table, write the JSON."""
    given = options(__doc__, arguments)
    names = given.formats or list(EXPORTS)
    with tempfile.TemporaryDirectory(dir=given.to) as folder:
        rows = list(measure(given.images, names, Path(folder)))
    by_name = {name: [row for row in rows if row["format"] == name] for name in names}
    cells = [
        {
            "format": name,
            "ms an image": ", ".join(f"{1e3 * row['seconds'] / row['images']:.2f}" for row in found),
            "MiB": ", ".join(f"{row['bytes'] / 2**20:,.0f}" for row in found),
            "peak MiB": ", ".join(f"{row['peak_bytes'] / 2**20:,.0f}" for row in found),
            "grows by": f"{found[-1]['peak_bytes'] / found[0]['peak_bytes']:.2f} x",
        }
        for name, found in by_name.items()
    ]
    print_table(f"{', '.join(f'{each:,}' for each in given.images)} images ({machine()})", cells)
    write_json(rows, given.json)


if __name__ == "__main__":
    if len(sys.argv) == 4 and not sys.argv[1].startswith("-"):
        print(json.dumps(export_once(*sys.argv[1:])))
    else:
        main()
