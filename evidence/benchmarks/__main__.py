"""Runs every benchmark on the embedded models and writes a JSON file for each table: `make bench`.

    python -m evidence.benchmarks [--folder bench-out]

Each runs in a process of its own, because a process's peak memory never falls. For larger models
docs/records/performance.md has the commands; they take an hour on a CPU.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

# The modules in this order, with these arguments; each also takes `--json`.
PARTS: Final[dict[str, list[str]]] = {
    "end_to_end": ["--images", "1"],
    "masks": [],
    "crops": [],
    "captioner": [],
    "vlm_captioner": ["--masks", "4", "--repeats", "1"],
    "filter": [],
    "listener_cost": ["--scenes", "12"],
    "pipeline": [],
    "first_result": ["--repeats", "1"],
    "dataset": ["--samples", "320", "--repeats", "1"],
    "scale": ["--rows", "10000", "--work-s", "120"],
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all parts and write their JSON files into a folder; exit with 1 where one failed, after the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("bench-out"))
    folder: Path = parser.parse_args(arguments).folder
    folder.mkdir(parents=True, exist_ok=True)
    failed = [name for name, given in PARTS.items() if run(name, [*given, "--json", str(folder / f"{name}.json")])]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def run(name: str, arguments: Sequence[str]) -> int:
    """Run one benchmark and return its exit status."""
    return subprocess.run([sys.executable, "-m", f"evidence.benchmarks.{name}", *arguments], check=False).returncode


if __name__ == "__main__":
    main()
