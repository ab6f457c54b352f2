"""Measures every export format over runs of two sizes: seconds, and the peak of memory, which must not grow.

    python -m evidence.benchmarks.exports [--images 1000 4000] [--formats NAME…] [--killed] [--before FOLDER]
    [--repeats 3] [--to FOLDER] [--json FILE]

The runs are written by hand: small images, two masks each, and two expressions a mask, embedded; FOLDER keeps them.
Each export is a process of its own that also reads what it stored. What grows by design is named: refer and lmdb
hold what their trainers hold, all references and all keys; sam3 all distinct texts, of which these runs have few.

With `--killed` each goes into a bucket of a server on this machine: once undisturbed, and once killed (SIGKILL) when
half of the images are written, and given again. The objects of both must be equal.

With `--before`, the checkout of an earlier version is the other side: both export in turn. Given are the medians of
`--repeats`, this version's seconds over the earlier one's, and whether both wrote the same bytes, but for the record of
the export. A version that cannot read the runs writes them first, by its own benchmark with the same `--images, --to`.
"""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from evidence.benchmarks.measurement import cpu_seconds, machine, options, peak_rss_bytes, print_table, write_json
from pseudoris.interchange.exports import EXPORTS, WRITING, ExportOptions, export_request, find_export
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.ids import image_id, mask_id, sha256_hex
from pseudoris.schemas.run_records import PlanEntry
from pseudoris.schemas.shard import ExpressionRecord, MaskRecord, Shard, ShardImage
from pseudoris.store.runs.commit import Provenance, commit_shard
from pseudoris.store.runs.manifest import write_manifest

_SIZE: Final = (48, 64)
_SHARD_IMAGES: Final = 256
# Different pictures; the others repeat them under names of their own.
_PICTURES: Final = 64
_HALF: Final = "half"
_ROOT: Final = Path(__file__).resolve().parents[2]
_FILE_MB: Final = 8
_RECORD: Final = "_export.json"
_TEXTS: Final = ("the left thing", "the thing on the right", "a round shape", "what is behind it")


def write_run(out: Path, num_images: int) -> None:
    """Write a finished run of so many images; equal numbers give equal runs."""
    # Not in the process of an export: it imports torch, whose memory would count.
    # Not above: the other side of `--before` may have it elsewhere.
    from evidence.benchmarks.dataset_inputs import start_run
    from pseudoris.files.location import RunLocation

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
    """Export in this process; return seconds, the peak of memory, and what was written. Half of it is told at once."""
    began, cpu_before, before = time.monotonic(), cpu_seconds(), peak_rss_bytes()
    chosen, is_told = find_export(name), False

    def on_progress(done: int, total: int, /, stage: str = WRITING) -> None:
        nonlocal is_told
        if stage == WRITING and 2 * done >= total and not is_told:
            is_told = True
            print(_HALF, flush=True)

    # Into a bucket several files, so that a killed process leaves some.
    has_files = to.startswith("s3:") and "target_mb" in chosen.reads
    report = chosen.write(
        export_request(run, to, name, ExportOptions(target_mb=_FILE_MB) if has_files else ExportOptions()), on_progress
    )
    return {
        "seconds": time.monotonic() - began,
        "cpu_s": cpu_seconds() - cpu_before,
        "imported_bytes": before,
        "peak_bytes": peak_rss_bytes(),
        "bytes": report.size_bytes,
    }


def _words(run: Path, to: str, name: str) -> list[str]:
    code = f"import runpy; runpy.run_path({__file__!r}, run_name='__main__')"
    return [sys.executable, "-c", code, str(run), to, name]


def _exported(run: Path, to: str, name: str, root: Path = _ROOT) -> dict[str, Any]:
    """Export in a process of its own, which takes all but this module from the checkout `root`."""
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{_ROOT}"}
    words = _words(run, to, name)
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, cwd=root, env=environment)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(run: Path, name: str) -> dict[str, Any]:
    """Export beside the run; return what `export_once` does."""
    to = run.with_name(f"{name}-of-{run.name}")
    found = _exported(run, str(to), name)
    shutil.rmtree(to)
    return found


def compare(run: Path, name: str, before: Path, repeats: int) -> dict[str, Any]:
    """Export by this version and by the checkout `before`, in turn; return the medians of both, and the ratio."""
    sides: dict[str, list[dict[str, Any]]] = {"before": [], "now": []}
    digests = set[str]()
    for turn in range(repeats):
        for side in sorted(sides, reverse=turn % 2 == 1):
            to = run.with_name(f"{name}-of-{run.name}")
            sides[side].append(_exported(run, str(to), name, before if side == "before" else _ROOT))
            digest = sha256()
            for path in sorted(each for each in to.rglob("*") if each.is_file() and each.name != _RECORD):
                digest.update(f"{path.relative_to(to)} {sha256_hex(path.read_bytes())}\n".encode())
            digests.add(digest.hexdigest())
            shutil.rmtree(to)
    found: dict[str, Any] = {"is_equal": len(digests) == 1, "sha256": sorted(digests)}
    for side, rows in sides.items():
        found[side] = {
            **{key: statistics.median(row[key] for row in rows) for key in ("seconds", "cpu_s")},
            "peak_bytes": max(row["peak_bytes"] for row in rows),
        }
    return {**found, "ratio": found["now"]["seconds"] / found["before"]["seconds"]}


def measure_killed(run: Path, name: str) -> dict[str, Any]:
    """Export into a bucket undisturbed, and killed and again; return both, and the digests of all objects."""
    from tests.builders.s3 import ENVIRONMENT, serving_s3

    # A server each: it holds its objects in memory.
    with serving_s3() as server:
        os.environ.update(ENVIRONMENT, AWS_ENDPOINT_URL=server.endpoint_url)
        bucket = server.new_bucket()
        whole = _exported(run, f"s3://{bucket}/whole", name)
        with subprocess.Popen(_words(run, f"s3://{bucket}/killed", name), stdout=subprocess.PIPE, text=True) as process:
            is_half = process.stdout is not None and process.stdout.readline().strip() == _HALF
            process.kill()
        if not is_half:
            raise RuntimeError(f"the export {name} ended before half of it was written")
        left, _ = _objects(server.client(), bucket, "killed/")
        again = _exported(run, f"s3://{bucket}/killed", name)
        (objects, digest), (_, found) = (_objects(server.client(), bucket, each) for each in ("whole/", "killed/"))
    if found != digest:
        raise RuntimeError(f"the export {name} has other objects after a kill than undisturbed")
    return {"whole": whole, "again": again, "objects": objects, "objects_at_kill": left, "sha256": digest}


def _objects(client: Any, bucket: str, prefix: str) -> tuple[int, str]:
    """Return how many objects there are, and a digest of keys, sizes and etags, which are digests of their bytes."""
    digest, number = sha256(), 0
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for each in page.get("Contents", ()):
            number += 1
            digest.update(f"{each['Key'].removeprefix(prefix)} {each['Size']} {each['ETag']}\n".encode())
    return number, digest.hexdigest()


def _cells(name: str, rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    return {
        "format": name,
        "CPU s a thousand": ", ".join(f"{1e3 * row['cpu_s'] / row['images']:.2f}" for row in rows),
        "MiB": ", ".join(f"{row['bytes'] / 2**20:,.0f}" for row in rows),
        "peak MiB": ", ".join(f"{row['peak_bytes'] / 2**20:,.0f}" for row in rows),
        "bytes an image more": f"{_growth(rows[0], rows[-1]):,.0f}",
    }


def _growth(small: dict[str, Any], large: dict[str, Any]) -> float:
    """Return by how many bytes an image the peak grew."""
    more_bytes, more_images = (int(large[name]) - int(small[name]) for name in ("peak_bytes", "images"))
    return more_bytes / max(more_images, 1)


def _cells_of_compared(name: str, rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    def cell(key: str, scale: float, form: str) -> str:
        return ", ".join(" → ".join(format(row[side][key] / scale, form) for side in ("before", "now")) for row in rows)

    return {
        "format": name,
        "ratio": ", ".join(f"{row['ratio']:.2f}" for row in rows),
        "same bytes": ", ".join("yes" if row["is_equal"] else "no" for row in rows),
        "seconds": cell("seconds", 1, ".2f"),
        "CPU s": cell("cpu_s", 1, ".2f"),
        "peak MiB": cell("peak_bytes", 2**20, ",.0f"),
    }


def _cells_of_killed(name: str, rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    return {
        "format": name,
        "images": ", ".join(f"{row['images']:,}" for row in rows),
        "objects": ", ".join(f"{row['objects']:,}" for row in rows),
        "at the kill": ", ".join(f"{row['objects_at_kill']:,}" for row in rows),
        "CPU s undisturbed": ", ".join(f"{row['whole']['cpu_s']:.1f}" for row in rows),
        "CPU s of the second command": ", ".join(f"{row['again']['cpu_s']:.1f}" for row in rows),
        "peak MiB": ", ".join(f"{row['again']['peak_bytes'] / 2**20:,.0f}" for row in rows),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, print the table, write the JSON."""
    given = options(__doc__, arguments)
    names = given.formats or list(EXPORTS)
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        folder = Path(given.to or stack.enter_context(tempfile.TemporaryDirectory()))
        for num_images in given.images:
            run = folder / f"run-{num_images}"
            if not run.exists():
                write_run(run, num_images)
            for name in names:
                if given.before is not None:
                    found = compare(run, name, given.before, given.repeats)
                else:
                    found = measure_killed(run, name) if given.killed else measure(run, name)
                rows.append({"format": name, "images": num_images, **found})
                write_json(rows if given.before is None else _compared(rows, given.before), given.json)
    of_format = _cells_of_compared if given.before else _cells_of_killed if given.killed else _cells
    cells = [of_format(name, [row for row in rows if row["format"] == name]) for name in names]
    print_table(f"{', '.join(f'{each:,}' for each in given.images)} images ({machine()})", cells)
    if given.before is not None:
        shown = {key: value for key, value in _compared(rows, given.before).items() if key != "formats"}
        print(json.dumps(shown))


def _compared(rows: Sequence[dict[str, Any]], before: Path) -> dict[str, Any]:
    """Return the rows with the commit of the earlier side, and the ratio over all: of the sums, and as their mean."""
    words = ["git", "-C", str(before), "rev-parse", "--short=8", "HEAD"]
    commit = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    now, earlier = (sum(row[side]["seconds"] for row in rows) for side in ("now", "before"))
    return {
        "before_commit": commit,
        "machine": machine(),
        "ratio_of_sums": now / earlier,
        "ratio_geometric_mean": math.exp(statistics.fmean(math.log(row["ratio"]) for row in rows)),
        "formats": list(rows),
    }


if __name__ == "__main__":
    if len(sys.argv) == 4 and not sys.argv[1].startswith("-"):
        print(json.dumps(export_once(*sys.argv[1:])))
    else:
        main()
