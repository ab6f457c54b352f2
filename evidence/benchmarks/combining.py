"""Times `combine` of two large runs with splits drawn by groups of near copies, and the count of copies at its end.

    python -m evidence.benchmarks.combining [--images 100000] [--shard-images 256] [--folder FOLDER] [--json FILE]

The runs hold half of the images each, with 5 masks and 50 expressions an image, hashes, and no pictures. In each of
them 1 image in 100 is a byte copy of another, and 1 a near copy. `close` finds copies and groups among 1/5 as many
hashes within 4 bits of one, as frames of a fixed camera have. Each case is a process of its own.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from evidence.benchmarks.measurement import Row, cpu_seconds, options, peak_rss_bytes, report
from evidence.benchmarks.process_watch import SideProcess
from pseudoris.files.location import RunLocation
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.ids import image_id, mask_id, sha256_hex
from pseudoris.schemas.run_records import PlanEntry
from pseudoris.schemas.shard import CaptionSample, ExpressionRecord, MaskRecord, Shard, ShardImage
from pseudoris.store.runs.commit import Provenance, commit_shard
from pseudoris.store.runs.copied_pictures import LeftOutImages, Picture, count_copies
from pseudoris.store.runs.held_out_pictures import HoldOut, split_images
from pseudoris.store.runs.manifest import write_manifest
from pseudoris.store.sessions.combined_run import combine
from pseudoris.store.tables.open_run import OpenRun

_RUNS: Final = ("first", "second")
_NUM_MASKS: Final = 5
_TEXTS_A_MASK: Final = 10
_SIDE_PX: Final = 64
_SCENE: Final = 0x9E3779B97F4A7C15
# Of 100 images these two have bytes, or a hash but for 2 bits, of the one before.
_BYTE_COPY, _NEAR_COPY = 1, 3
_DRAWN: Final = (CaptionSample("masked", "top_p", None, 0.4, -2.25, "all", _NUM_MASKS - 1),)


def write_run(folder: Path, name: str, num_images: int, shard_images: int) -> None:
    """Write one of the runs."""
    # Here, because it loads torch, whose memory is not that of the cases.
    from evidence.benchmarks.dataset_inputs import start_run

    location, config = RunLocation.open(str(folder / name)), load_config("tiny")
    keys = [f"{name}-{number:07d}.png" for number in range(num_images)]
    entries = [PlanEntry(at // shard_images, at % shard_images, image_id(key), key) for at, key in enumerate(keys)]
    header = start_run(location, name, entries, config)
    for shard in range(header.num_shards):
        own = entries[shard * shard_images : (shard + 1) * shard_images]
        images = tuple(_image(entry, shard * shard_images + entry.position) for entry in own)
        commit_shard(
            location,
            Shard(shard, 0, images),
            planned_ids=[entry.image_id for entry in own],
            embed_images=False,
            provenance=Provenance(header_sha256=header.sha256),
        )
    write_manifest(location)


def _image(entry: PlanEntry, number: int) -> ShardImage:
    before, at = entry.key.replace(f"{number:07d}", f"{number - 1:07d}"), number % 100
    phash = int(sha256_hex(f"{before if at == _NEAR_COPY else entry.key} hash".encode())[:16], 16)
    masks = tuple(
        MaskRecord(mask_id(entry.image_id, at), at, (_SIDE_PX, _SIDE_PX), "0P1P1", (at, 0, 9, 9), 64)
        for at in range(_NUM_MASKS)
    )
    said = (
        ExpressionRecord(
            (mask.mask_id,),
            f"the thing number {place} beside object {mask.index} of {number}",
            _DRAWN,
            head_noun="thing",
            uniqueness=1 + place / 64,
            correctness=0.5,
            distinctiveness=1 + place / 32,
            rival_mask_id=masks[mask.index - 1].mask_id,
            kept=place > 1,
        )
        for mask in masks
        for place in range(_TEXTS_A_MASK)
    )
    return ShardImage(
        entry.position,
        entry.image_id,
        entry.key,
        sha256=sha256_hex((before if at == _BYTE_COPY else entry.key).encode()),
        phash=f"{phash ^ 3 * (at == _NEAR_COPY):016x}",
        height=_SIDE_PX,
        width=_SIDE_PX,
        masks=masks,
        expressions=tuple(said),
    )


class Work:
    """What is timed, each in a process of its own."""

    def __init__(self, folder: Path) -> None:
        """Take the folder of the runs."""
        self._folder = folder

    def write(self, name: str, *sizes: int) -> None:
        """Write a run."""
        write_run(self._folder, name, *sizes)

    def combine(self) -> dict[str, Any]:
        """Combine the runs; return what it took, and what of the new run proves that it did."""
        given = [(name, RunLocation.open(str(self._folder / name))) for name in _RUNS]
        target, hold_out = RunLocation.open(str(self._folder / "both")), HoldOut.of({"val": 0.05}, "similar")
        began_s, used_s = time.perf_counter(), cpu_seconds()
        summary = combine(given, target, hold_out=hold_out)
        note = f"{summary.totals.expressions:,} expressions, {dict(summary.splits)}, copies: {summary.copies}"
        return _taken(began_s, used_s, note)

    def count(self) -> dict[str, Any]:
        """Count the copies of the new run."""
        began_s, used_s = time.perf_counter(), cpu_seconds()
        found = count_copies(OpenRun.at(RunLocation.open(str(self._folder / "both"))))
        return _taken(began_s, used_s, str(found))

    def close(self, num_images: int) -> dict[str, Any]:
        """Find copies and groups among close hashes."""
        draw, images = random.Random(0), list[Picture]()
        for number in range(num_images):
            bits = _SCENE ^ sum(1 << bit for bit in draw.sample(range(64), draw.randint(0, 4)))
            name, digest = str(number), sha256_hex(str(number).encode())
            images.append(Picture(name, 0, 0, name, digest, f"{bits:016x}", is_quarantined=False, image_id=name))
        began_s, used_s, found = time.perf_counter(), cpu_seconds(), LeftOutImages()
        found.add_copies(images, is_similar=True)
        split_images(images, HoldOut.of({"val": 0.05}, "similar"), LeftOutImages())
        return _taken(began_s, used_s, f"{len(found.rows):,} near copies of {num_images:,}")


def _taken(began_s: float, used_s: float, note: str) -> dict[str, Any]:
    taken_s, cpu_s = time.perf_counter() - began_s, cpu_seconds() - used_s
    return {"ours_s": taken_s, "peak_rss_bytes": peak_rss_bytes(), "note": f"{cpu_s:.1f} s of CPU; {note}"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the runs, measure both cases, print the table."""
    given = options(__doc__, arguments)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        for name in _RUNS:
            _in_process(Path(folder), "write", name, given.images // len(_RUNS), given.shard_images)
        cases = {"combine": (), "count": (), "close": (given.images // 5,)}
        rows = [Row(case, None, **_in_process(Path(folder), case, *sizes)) for case, sizes in cases.items()]
        report(f"combine of {given.images:,} images, 5 masks and 50 expressions each", rows, given.json)


def _in_process(folder: Path, method: str, *given: Any) -> Any:
    process = SideProcess({}, Work, folder)
    try:
        return process.call(method, *given)
    finally:
        process.close()


if __name__ == "__main__":
    main()
