"""Names that worked before version 0.2: an error names the new form, without a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("schemas", "images", "store", "workers", "pipeline", "training", "synthworld", "viewer", "audit", "cli")


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=cwd, capture_output=True, text=True, check=False)


def test_in_a_clone_a_bare_name_is_no_second_copy_of_ours():
    code = (
        "import importlib, sys\n"
        "for room in sys.argv[1:]:\n"
        "    try:\n"
        "        importlib.import_module(room)\n"
        "    except ImportError as error:\n"
        "        print(error)\n"
    )
    ended = run("-c", code, *ROOMS, cwd=ROOT)
    assert ended.stderr == ""
    assert ended.stdout.splitlines() == [
        f"{room!r} is not a package of its own: import pseudoris.{room}" for room in ROOMS
    ]
