"""The command line as a user meets it: in a process of its own, or in this one, which spares it the imports."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from click.testing import Result
from typer.testing import CliRunner

from pseudoris.cli.main import app, main

NUM_SCENES = 2
WIDTH = "400"
# In a process that has a Ray, that Ray.
OPTIONS = ("--address", "local")


@dataclass(frozen=True)
class TinyRun:
    """A source folder, the output beside it, and what the command printed."""

    source: Path
    out: Path
    printed: subprocess.CompletedProcess[str]


def pseudoris(*arguments: str, cwd: Path | None = None, code: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command and return what it printed, wide enough that no line is folded.

    It must end with the exit code `code`; without one any will do.
    """
    command = _command(arguments)
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=_environment())
    assert code in (None, ended.returncode), (ended.returncode, ended.stdout + ended.stderr)
    return ended


def pseudoris_here(*arguments: str, cwd: Path | str = ".", code: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command in this process, and return what it printed, never a traceback; `code` is that of `pseudoris`.

    Log records are pytest's, and an open Ray is joined.
    """
    out, err = io.StringIO(), io.StringIO()
    handler = signal.getsignal(signal.SIGTERM)
    words = ["pseudoris", *arguments]
    with redirect_stdout(out), redirect_stderr(err), chdir(cwd), patch.dict(os.environ, COLUMNS=WIDTH):
        try:
            with patch.object(sys, "argv", words):
                main()
            found = 0
        except SystemExit as ended:
            found = int(ended.code or 0)
        finally:
            signal.signal(signal.SIGTERM, handler)
    assert "Traceback" not in err.getvalue()
    assert code in (None, found), (found, out.getvalue() + err.getvalue())
    return subprocess.CompletedProcess(words, found, out.getvalue(), err.getvalue())


def invoke(*words: object, columns: int = 200, code: int = 0) -> Result:
    """Run the command in this process, its errors raised as they are; it must end with the exit code `code`."""
    ended = CliRunner(env={"COLUMNS": str(columns)}).invoke(app, [str(each) for each in words], catch_exceptions=False)
    assert ended.exit_code == code, ended.output
    return ended


def start_pseudoris(*arguments: str, options: Sequence[str] = (), **process: bool) -> subprocess.Popen[str]:
    """Start the command, with `options` of Python, and return its process, to be sent a signal; its output is piped."""
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": _environment(), **process}
    return subprocess.Popen(_command(arguments, options), preexec_fn=_obey_interrupts, **how)


def python_says(code: str, *words: str, cwd: Path | None = None, **environment: str) -> str:
    """Run a program in a Python of its own, which must succeed, and return what it printed, stripped."""
    command, variables = [sys.executable, "-c", code, *words], {**os.environ, **environment}
    return subprocess.run(command, env=variables, cwd=cwd, capture_output=True, text=True, check=True).stdout.strip()


def _obey_interrupts() -> None:
    # Shells start what runs in the background with SIGINT ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(condition: Callable[[], bool], timeout_s: float = 180.0) -> None:
    """Return once `condition` holds; raise TimeoutError where it does not in time."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {timeout_s} s")
        time.sleep(0.02)


def _command(arguments: Sequence[str], options: Sequence[str] = ()) -> list[str]:
    return [sys.executable, *options, "-m", "pseudoris", *arguments]


def _environment() -> dict[str, str]:
    search_path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "COLUMNS": WIDTH, "PYTHONPATH": search_path}
