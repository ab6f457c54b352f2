"""Run every benchmark on the embedded models, with a JSON file beside each table: `make bench`.

    python -m benchmarks [--folder bench-out]

What needs larger models has a command of its own in docs/performance.md, and takes hours on a CPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import caption_memory, captioner, crops, filter, gpu, masks, pipeline, profile, roofline, stages

# In this order, with these arguments; each also takes `--json`.
PARTS: dict[str, tuple[Callable[[Sequence[str]], None], list[str]]] = {
    "stages": (stages.main, []),
    "masks": (masks.main, []),
    "crops": (crops.main, []),
    "captioner": (captioner.main, []),
    "caption_memory": (caption_memory.main, ["--preset", "tiny", "--budget-mib", "256"]),
    "filter": (filter.main, []),
    "roofline": (roofline.main, []),
    "profile": (profile.main, ["--preset", "tiny"]),
    "gpu": (gpu.main, ["--device", "cpu", "--tiny"]),
    "pipeline": (pipeline.main, []),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all parts and write their JSON files into a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("bench-out"))
    folder: Path = parser.parse_args(arguments).folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, (run, given) in PARTS.items():
        run([*given, "--json", str(folder / f"{name}.json")])


if __name__ == "__main__":
    main()
