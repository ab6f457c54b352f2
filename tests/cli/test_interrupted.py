"""How commands end.

On Ctrl-C and SIGTERM while a command imports its modules: one line, exit code 130, no traceback. After a success
nothing is left running that could turn it into an abort.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from pseudoris.files.location import RunLocation
from tests.builders.command import start_pseudoris, wait_for
from tests.builders.images import png
from tests.builders.scored_runs import scored_run

pytestmark = pytest.mark.slow

# Only so that a hang ends: what is waited for is an event, however busy the machine is.
PATIENCE_S = 600
# Beside other work a server of Ray may take minutes to start.
PATIENT = ("--set", f"placement.start_timeout_s={PATIENCE_S}")

BEFORE = r"stopped before anything was done\n"
LATE = r"(\nstopping: this may take some seconds\n)?"
NOTE = r"(note The preset tiny knows drawn scenes alone: of photographs it makes nonsense\.\n)?"
ENDS = r"stopped interrupted( before the first step: nothing is kept)?\nto resume run the same command again\n"
# The line comes half a second after the signal, wherever the command is then.
AFTER = f"({NOTE}{LATE}|{LATE}{NOTE}){ENDS}"


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    out = tmp_path_factory.mktemp("interrupted") / "run"
    scored_run(RunLocation.open(str(out)))
    (out.parent / "in").mkdir()
    (out.parent / "in" / "a.png").write_bytes(png())
    return str(out)


def signalled_at(module: str, number: int, *words: str) -> tuple[int, str]:
    """Send the signal to the command's group once `module` is imported; return the exit code, and what was said."""
    # Python reports each import when it has ended.
    process = start_pseudoris(*words, options=("-X", "importtime"), start_new_session=True)
    is_sent, said = False, ""
    for line in process.stderr:
        if not line.startswith("import time:"):
            said += line
        elif not is_sent and line.rpartition("|")[2].strip() == module:
            is_sent = True
            os.killpg(process.pid, number)
    assert is_sent, f"{module} was not imported"
    return process.wait(timeout=PATIENCE_S), said


@pytest.mark.parametrize(
    ("words", "module", "expected", "number"),
    [
        ("export OUT OUT-export", "rich.console", BEFORE, signal.SIGINT),
        ("export OUT OUT-export", "typer", BEFORE, signal.SIGTERM),
        ("verify OUT", "pyarrow.lib", BEFORE, signal.SIGINT),
        ("gallery OUT", "jinja2.environment", AFTER, signal.SIGTERM),
        pytest.param("train student OUT --out OUT-student", "torch._C", AFTER, signal.SIGINT, marks=pytest.mark.long),
        # Its modules are imported while it waits for a child process.
        ("annotate --preset=tiny IN OUT-new --address local", "ray._raylet", AFTER, signal.SIGINT),
        pytest.param(
            "annotate --preset=tiny IN OUT-new --address local",
            "ray._raylet",
            AFTER,
            signal.SIGTERM,
            marks=pytest.mark.long,
        ),
    ],
)
def test_an_interrupt_during_imports_ends_in_one_line(out, words, module, expected, number):
    code, said = signalled_at(
        module, number, *words.replace("OUT", out).replace("IN ", f"{Path(out).parent}/in ").split()
    )
    assert code == 130
    # A bar may be on the screen, or its title: twice, where the signal came after Rich wrote it and before it forgot.
    assert re.fullmatch(rf"(reading the runs\n){{0,2}}\n*{expected}", said), said


def has_child(process: psutil.Process, name: str) -> bool:
    for child in process.children():
        # It may end before it is asked.
        with suppress(psutil.NoSuchProcess):
            if child.name() == name:
                return True
    return False


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.parametrize("process_name", ["gcs_server", "raylet"])
def test_a_signal_to_the_group_while_ray_starts_ends_in_one_line(out, process_name):
    """As `timeout` and Slurm send it. If Ray's processes ended first, the command would end without a word."""
    words = (f"{Path(out).parent}/in", f"{out}-new", "--address", "local", *PATIENT)
    process = start_pseudoris("annotate", "--preset=tiny", *words, start_new_session=True)
    ours = psutil.Process(process.pid)
    wait_for(lambda: has_child(ours, process_name) or process.poll() is not None, timeout_s=PATIENCE_S)
    assert process.poll() is None, process.communicate()[1]
    os.killpg(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert re.fullmatch(AFTER, said), said


# Arrow's pools start their threads with their first task and keep them; others start on import.
COUNTS_THREADS = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in Linux' /proc")
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


@COUNTS_THREADS
def test_no_file_is_left_with_arrows_threads(out):
    commands = [each.replace("OUT", out) for each in COMMANDS]
    assert left_after(*commands) == [f"0 after {each.split()[0]}" for each in commands]


@pytest.mark.long
@COUNTS_THREADS
def test_the_count_sees_arrows_threads(out):
    part = next(Path(out, "expressions").glob("*.parquet"))
    assert left_after(f"arrow {part}") != ["0 after arrow"]
