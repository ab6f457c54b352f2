"""A Ray head node in processes of its own, with a job server and a metrics port, beside whatever else runs here."""

from __future__ import annotations

import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.builders.command import wait_for

ROOT = Path(__file__).parents[2]
# The `ray` command of this environment: a test's PATH need not know it.
RAY = (sys.executable, "-m", "ray.scripts.scripts")
# Above the ports of Ray's workers, below those that the kernel picks for connections: a head binds some of its ports
# seconds after they were found free, and ends where another process has taken one since.
QUIET_PORTS = range(20_000, 32_768)


@dataclass(frozen=True)
class Head:
    """A running head node; `environment` holds the token that the cluster asks drivers and clients for."""

    address: str
    jobs_url: str
    metrics_url: str
    environment: Mapping[str, str]

    def ray(self, *arguments: str, code: int | None = None) -> subprocess.CompletedProcess[str]:
        """Run the `ray` command against it, as `run_ray` does."""
        environment = {**os.environ, **self.environment, "RAY_ADDRESS": self.jobs_url, "COLUMNS": "400"}
        return run_ray(environment, *arguments, code=code)


def run_ray(
    environment: Mapping[str, str], *arguments: str, code: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the `ray` command from the repository's root, and return what it printed.

    It must end with the exit code `code`; without one any will do.
    """
    words, nothing = [*RAY, *arguments], subprocess.DEVNULL
    ended = subprocess.run(
        words, cwd=ROOT, env=environment, stdin=nothing, capture_output=True, text=True, check=False, timeout=300
    )
    assert code in (None, ended.returncode), ended.stdout + ended.stderr
    return ended


def ray_from(folder: Path) -> tuple[str, ...]:
    """Return the `ray` command with an interpreter whose path is as plain as `folder`'s.

    `ray start` hands the path of its interpreter to a shell unquoted, to serve `ray://` clients. A space in the
    path ends that server at once, and the node with it. Python takes a link to an environment for the environment.
    """
    link = folder / "environment"
    link.symlink_to(sys.prefix)
    return (str(link / Path(sys.executable).relative_to(sys.prefix)), *RAY[1:])


def start_arguments(temp: Path | None, ports: Mapping[str, int], *, num_cpus: int) -> list[str]:
    """Return the words behind `ray` that start a head which meets no other on its ports; `temp` None is Ray's own."""
    return [
        "start",
        "--head",
        f"--num-cpus={num_cpus}",
        f"--object-store-memory={600 * 2**20}",
        *([f"--temp-dir={temp}"] if temp else ()),
        "--include-dashboard=true",
        "--disable-usage-stats",
        *(f"--{name}={port}" for name, port in ports.items()),
    ]


def head_ports() -> dict[str, int]:
    """Return a free port for each that two heads on one machine would both want."""
    names = ("port", "dashboard-port", "metrics-export-port", "dashboard-agent-listen-port", "ray-client-server-port")
    return dict(zip(names, free_ports(len(names)), strict=True))


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that nobody listens on and that the kernel gives to no connection meanwhile."""
    found: list[int] = []
    for port in random.SystemRandom().sample(QUIET_PORTS, len(QUIET_PORTS)):
        if len(found) == count:
            break
        with socket.socket() as tried, suppress(OSError):
            tried.bind(("127.0.0.1", port))
            found.append(port)
    return found


def is_listening(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running_head(*, environment: Mapping[str, str] | None = None) -> Iterator[Head]:
    """Run a head for the block; every process that it started is gone afterwards, and no other."""
    # Short: the paths of its unix sockets may have 107 characters.
    temp = Path(tempfile.mkdtemp(prefix="ph-", dir="/tmp"))
    ports = head_ports()
    arguments = start_arguments(temp / "r", ports, num_cpus=2)
    # Its own token: a cluster without one would run what anybody on this machine sends.
    shared = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    # Of drivers too: a node drops a gauge that is not reported again within two of its own intervals.
    shared["RAY_metrics_report_interval_ms"] = "1000"
    with (temp / "log").open("w") as log:
        process = subprocess.Popen(
            [*ray_from(temp), *arguments, "--block"],
            # Jobs run where the head was started, and Python looks there first: not in a clone, as no node's is one.
            cwd=temp,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **shared, **(environment or {})},
        )
    head = Head(
        address=f"127.0.0.1:{ports['port']}",
        jobs_url=f"http://127.0.0.1:{ports['dashboard-port']}",
        metrics_url=f"http://127.0.0.1:{ports['metrics-export-port']}/metrics",
        environment=shared,
    )
    try:
        wait_for(lambda: _answers(head) or _ended(process, temp / "log"), timeout_s=120)
        yield head
    except BaseException as error:
        # Its folder goes with it, and why a head ended stands nowhere else.
        error.add_note(f"ray start said last:\n{_tail(temp / 'log')}")
        raise
    finally:
        with suppress(psutil.NoSuchProcess):
            top = psutil.Process(process.pid)
            _end([top, *top.children(recursive=True)])
        process.wait()
        shutil.rmtree(temp, ignore_errors=True)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


def end_all_with(word: str) -> None:
    """End every process that has `word` in its environment: daemons of `ray start`, whose parents are gone."""
    marked = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(word in f"{name}={value}" for name, value in process.environ().items()):
                marked.append(process)
    _end(marked)


def _end(processes: Sequence[psutil.Process]) -> None:
    """Ask processes to end, and kill those that have not gone in time."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        with suppress(TimeoutError):
            wait_for(lambda: not any(map(_lives, processes)), timeout_s=5)


def _lives(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def _answers(head: Head) -> bool:
    bearer = {"Authorization": f"Bearer {head.environment['RAY_AUTH_TOKEN']}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{head.jobs_url}/api/version", headers=bearer), timeout=2):
            return True
    except OSError:
        return False


def _ended(process: subprocess.Popen[bytes], log: Path) -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"ray start ended with {process.returncode}:\n{_tail(log)}")
    return False
