"""What `images.phash` adds to a reader: `python -m evidence.benchmarks.reader_hashes PHOTOS [--rounds N]`.

The photographs are read, proven and dropped as by a reader of `annotate`, without and with hashes in turn; CPU seconds
of this process and of the proving one, start and end of it apart, because other work on the machine moves wall time.
"""

from __future__ import annotations

import resource
import statistics
from pathlib import Path
from typing import Annotated

import typer

from pseudoris.images.prover import Prover
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.run_records import PlanEntry
from pseudoris.store.sources import open_source
from pseudoris.store.sources.proven_shard import read_shard


def cpu_s() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def reading_s(photos: Path, has_phash: bool, times: int) -> float:
    """Return the CPU seconds of reading all photographs so many times, with the start and end of the prover."""
    config = load_config("tiny", None, [f"images.phash={str(has_phash).lower()}"])
    listed = list(open_source(str(photos), config.source).list())
    entries = [PlanEntry(0, at, f"{at:016x}", each.key, each.size_bytes) for at, each in enumerate(listed)]
    began = cpu_s()
    with Prover(config.images) as prover:
        for _ in range(times):
            read_shard(str(photos), config, entries, prover=prover)
    return cpu_s() - began


def main(
    photos: Annotated[Path, typer.Argument(help="Folder of photographs.")],
    rounds: Annotated[int, typer.Option(help="Rounds of both, of which the median counts.")] = 5,
) -> None:
    """Print milliseconds of CPU an image without and with hashes, and of a start."""
    num_images, found = len(list(photos.glob("*.jpg"))), dict[tuple[bool, int], list[float]]()
    for _ in range(rounds):
        for has_phash in (False, True):
            for times in (1, 11):
                found.setdefault((has_phash, times), []).append(reading_s(photos, has_phash, times))
    once, many = ({has: statistics.median(found[has, times]) for has in (False, True)} for times in (1, 11))
    without, having = (1_000 * (many[has] - once[has]) / (10 * num_images) for has in (False, True))
    print(f"{without:.2f} ms an image without hashes, {having:.2f} with: {having / without - 1:.0%} more")
    more = 1_000 * (once[True] - once[False]) - (having - without) * num_images
    print(f"a start of the proving process takes {more:.0f} ms more")


if __name__ == "__main__":
    typer.run(main)
