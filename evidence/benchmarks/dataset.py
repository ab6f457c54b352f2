"""Compares a run as a torch dataset with CRIS's files and CRIS's LMDB: samples a second, bytes, memory.

    python -m evidence.benchmarks.dataset [--samples 1280] [--masks 20 1] [--workers 1 2 4] [--repeats 3]
    [--photographs FOLDER] [--json FILE]

As many samples for each number of masks an image: with one, an image decoded once for all its masks saves nothing.
Timed is an epoch over all samples, from `iter(loader)` to the last batch, stacked batches of 32 of 480 x 640 pixels,
with everything in the page cache. First each side's samples are compared, pixel by pixel: where they differ nothing
is timed. Each epoch runs in a process of its own, the sides in turn, and a figure is the median over the rounds. Beside
the rate stands the CPU time of all processes, which a busy machine changes less.
"""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch.utils.data import DataLoader, Dataset

from evidence.benchmarks.dataset_inputs import CrisFiles, CrisLmdb, DataSize, write_all
from evidence.benchmarks.measurement import cpu_seconds, machine, options, peak_rss_bytes, print_table, write_json
from pseudoris.interchange.dataset import RisDataset, RisIterableDataset, RisSample, SampleSpec

BATCH: Final = 32
SIDES: Final = ("stream", "map", "files", "lmdb")
NAMES: Final = {
    "stream": "run, stream",
    "map": "run, by number",
    "files": "CRIS files",
    "lmdb": "CRIS LMDB",
}
_SPEC: Final = SampleSpec(parts=("image", "mask", "text"))


def open_side(side: str, folder: Path) -> Dataset[Any]:
    """Return a side's dataset."""
    match side:
        case "stream":
            return RisIterableDataset(str(folder / "run"), _SPEC)
        case "map":
            return RisDataset(str(folder / "run"), _SPEC)
        case "files":
            return CrisFiles(folder / "cris")
        case _:
            return CrisLmdb(folder / "cris")


def look(side: str, folder: Path) -> dict[str, Any]:
    """Read a side once in this process: a digest over all samples, by mask, and the bytes that were read."""
    before = _bytes_asked_for()
    dataset = open_side(side, folder)
    # Without workers and without a batch: the samples as they are.
    samples: Iterable[RisSample] = DataLoader(dataset, batch_size=None, collate_fn=_unchanged)
    digests = sorted(_digest(sample) for sample in samples)
    counted = getattr(dataset, "bytes_read", None)
    return {
        "digest": hashlib.sha256(b"".join(digests)).hexdigest(),
        "samples": len(digests),
        # What is mapped into memory no counter of the system sees: that reader counts itself.
        "bytes_read": _bytes_asked_for() - before if counted is None else counted,
    }


def run_epoch(side: str, folder: Path, num_workers: int) -> dict[str, Any]:
    """Read an epoch through a loader; return its seconds, CPU time, and peak memory of this process and of a worker."""
    torch.set_num_threads(1)
    dataset = open_side(side, folder)
    options: dict[str, Any] = (
        {} if side == "stream" else {"shuffle": True, "generator": torch.Generator().manual_seed(0)}
    )
    loader = DataLoader(dataset, batch_size=BATCH, num_workers=num_workers, collate_fn=_stacked, **options)
    started, cpu_before = time.perf_counter(), cpu_seconds()
    num_samples = sum(len(batch[0]) for batch in loader)
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": cpu_seconds() - cpu_before,
        "samples": num_samples,
        "peak_rss_bytes": peak_rss_bytes(),
        "worker_peak_rss_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
    }


def measure(folder: Path, *, workers: Sequence[int], repeats: int) -> list[dict[str, Any]]:
    """Return a row a side and number of workers.

    Raises:
        ValueError: The sides' samples are not equal.
    """
    looks = {side: in_process(look, side, folder) for side in SIDES}
    if len({(each["digest"], each["samples"]) for each in looks.values()}) > 1:
        raise ValueError(f"the sides give other samples: {looks}")
    cases = [(count, side) for count in workers for side in SIDES]
    epochs: dict[tuple[int, str], list[dict[str, Any]]] = {case: [] for case in cases}
    for _ in range(repeats):
        for count, side in cases:
            epochs[count, side].append(in_process(run_epoch, side, folder, count))
    return [_row(side, count, epochs[count, side], looks[side]) for count, side in cases]


def _row(side: str, workers: int, epochs: Sequence[dict[str, Any]], looked: dict[str, Any]) -> dict[str, Any]:
    rates = [each["samples"] / each["seconds"] for each in epochs]
    cpu_ms = [1e3 * each["cpu_seconds"] / each["samples"] for each in epochs]
    return {
        "side": side,
        "workers": workers,
        "samples": looked["samples"],
        "samples_per_s": statistics.median(rates),
        "samples_per_s_all": rates,
        "cpu_ms_per_sample": statistics.median(cpu_ms),
        "cpu_ms_per_sample_all": cpu_ms,
        "bytes_read": looked["bytes_read"],
        "peak_rss_bytes": max(each["peak_rss_bytes"] for each in epochs),
        "worker_peak_rss_bytes": max(each["worker_peak_rss_bytes"] for each in epochs),
    }


def in_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """Return what `work` returns, called in a process of its own; raises RuntimeError where that fails."""
    # Forked, not started: torch need not be imported again. Its peak memory begins at this process's own, a small one.
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def run() -> None:
        # Its warnings are for trainers; in the table they would stand once a repeat.
        logging.getLogger("pseudoris.interchange").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        sender.send(work(*arguments))

    process = context.Process(target=run)
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise RuntimeError(f"{work.__name__}{arguments} failed: see above") from None
    finally:
        process.join()


def _unchanged(sample: Any) -> Any:
    return sample


def _stacked(samples: Sequence[RisSample]) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    return (
        torch.stack([sample["image"] for sample in samples]),
        torch.stack([sample["mask"] for sample in samples]),
        [sample["expressions"][0] for sample in samples],
    )


def _digest(sample: RisSample) -> bytes:
    digest = hashlib.sha256(sample["mask_id"].encode())
    for tensor in (sample["image"], sample["mask"]):
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    digest.update(sample["expressions"][0].encode())
    return digest.digest()


def _bytes_asked_for() -> int:
    fields = Path("/proc/self/io").read_text(encoding="ascii").split()
    return int(fields[fields.index("rchar:") + 1])


def _print(rows: Sequence[dict[str, Any]], size: DataSize) -> None:
    title = f"{size.images} images, {size.masks} masks each, {rows[0]['samples']:,} samples an epoch ({machine()})"
    rates = {(row["workers"], row["side"]): row["samples_per_s"] for row in rows}
    cells = [
        {
            "workers": str(row["workers"]),
            "read from": NAMES[row["side"]],
            "samples/s": f"{row['samples_per_s']:,.0f}",
            "stream is": f"{rates[row['workers'], 'stream'] / row['samples_per_s']:.2f} x",
            "CPU ms a sample": f"{row['cpu_ms_per_sample']:.2f}",
            "MB read": f"{row['bytes_read'] / 1e6:,.1f}",
            "peak MiB": f"{row['peak_rss_bytes'] / 2**20:,.0f}",
            "worker MiB": f"{row['worker_peak_rss_bytes'] / 2**20:,.0f}",
        }
        for row in rows
    ]
    print_table(title, cells)


def main(arguments: Sequence[str] | None = None) -> None:
    """Build the data, measure what the command line asks for, print it, write the JSON."""
    given = options(__doc__, arguments)
    rows = []
    for num_masks in given.masks:
        size = DataSize(given.samples // num_masks, num_masks)
        with tempfile.TemporaryDirectory() as folder:
            in_process(write_all, Path(folder), size, given.photographs)
            found = measure(Path(folder), workers=given.workers, repeats=given.repeats)
        _print(found, size)
        rows += [{"images": size.images, "masks_per_image": num_masks, "machine": machine(), **row} for row in found]
        write_json(rows, given.json)


if __name__ == "__main__":
    main()
