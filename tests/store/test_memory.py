"""What a process no longer needs goes back to the machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Small objects between which a few live on: freed, but not at the heap's end, and so kept by the allocator.
CODE = """
import sys
from pathlib import Path
from pseudoris.store.memory import trim_memory

def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

before = resident_mb()
# Above what Python serves from arenas of its own.
many = [bytes(1_000) for _ in range(200_000)]
few = many[::2_000]
del many
kept = resident_mb() - before
trim_memory()
print(kept, resident_mb() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how large a process is")
def test_room_between_what_lives_on_is_given_back():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, cwd=ROOT)
    kept, left = map(float, done.stdout.split())
    assert kept > 100
    assert left < 30
