"""How commands end: nothing is left running that could turn a success into an abort."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pseudoris.store.location import RunLocation
from tests.builders.scored_runs import scored_run

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in Linux' /proc")

# Arrow's pools start their threads with their first task and keep them; others start on import.
COUNTED = """
import os, sys, time
import numpy, pyarrow.parquet, pycocotools.mask
from pseudoris.cli.main import app
from typer.testing import CliRunner
before = len(os.listdir("/proc/self/task"))
for command in sys.argv[1:]:
    name, *words = command.split()
    if name == "arrow":
        with open(words[0], "rb") as file:
            pyarrow.parquet.ParquetFile(file).read()
    else:
        result = CliRunner().invoke(app, [name, *words], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    # A progress bar's thread ends a moment after the bar.
    deadline = time.monotonic() + 3
    while (left := len(os.listdir("/proc/self/task")) - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    print(left, "after", name)
"""
COMMANDS = (
    *("verify OUT", "verify --quick OUT", "stats OUT", "sample OUT -n 5", "status OUT"),
    *("refilter OUT OUT-refiltered --tau 1.5", "export OUT OUT-parquet --format parquet"),
)


def left_after(*commands: str) -> list[str]:
    """Return how many threads are left after each command, and its name."""
    words = [sys.executable, "-c", COUNTED, *commands]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    out = tmp_path_factory.mktemp("exit") / "run"
    scored_run(RunLocation.open(str(out)))
    return str(out)


@pytest.mark.slow
def test_no_file_is_left_with_arrows_threads(out):
    commands = [each.replace("OUT", out) for each in COMMANDS]
    assert left_after(*commands) == [f"0 after {each.split()[0]}" for each in commands]


@pytest.mark.long
def test_the_count_sees_arrows_threads(out):
    part = next(Path(out, "expressions").glob("*.parquet"))
    assert left_after(f"arrow {part}") != ["0 after arrow"]
