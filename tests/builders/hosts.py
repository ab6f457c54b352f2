"""Hosts of their own on one machine: network namespaces on a bridge, each with an address and a link to cut."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.builders.head import ray_from

_NETWORK = "10.213.77"
_PORT = 6379
# A node that does not answer is given up after some seconds: Ray's own patience is made for real networks.
_ENVIRONMENT = {
    # Whoever runs the tests may have a token for other clusters.
    "RAY_AUTH_MODE": "disabled",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    # Fewer, and nodes of a busy machine are given up while they start.
    "RAY_health_check_failure_threshold": "12",
}


@dataclass
class Hosts:
    """A Ray cluster whose nodes share but a network and a disk; `names` are namespaces, the first that of the head."""

    address: str
    names: list[str]
    raylets: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def command(self, host: int, *words: str) -> list[str]:
        """Return the command that runs `words` on a host."""
        return ["ip", "netns", "exec", self.names[host], *words]

    def host_of(self, pid: int) -> int:
        network = Path(f"/proc/{pid}/ns/net").stat().st_ino
        return next(i for i, name in enumerate(self.names) if Path(f"/run/netns/{name}").stat().st_ino == network)

    def cut(self, host: int) -> None:
        """Cut a host's cable: it lives on, and nobody hears of it."""
        subprocess.run(self.command(host, "ip", "link", "set", "eth0", "down"), check=True)


def can_make_hosts() -> bool:
    if os.geteuid() or shutil.which("ip") is None:
        return False
    name = f"pr-{secrets.token_hex(3)}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    if made:
        subprocess.run(["ip", "netns", "delete", name], check=True)
    return made


@contextmanager
def ray_hosts(num_workers: int) -> Iterator[Hosts]:
    """Start a head and `num_workers` Ray nodes, each in a network namespace; all of it ends with the block."""
    tag = f"pr{secrets.token_hex(2)}"
    hosts = Hosts(f"{_NETWORK}.1:{_PORT}", [f"{tag}-{number}" for number in range(num_workers + 1)])
    folder = Path(tempfile.mkdtemp(prefix="prh-"))
    try:
        _run("link", "add", f"{tag}b", "type", "bridge")
        _run("link", "set", f"{tag}b", "up")
        for number in range(num_workers + 1):
            _add_host(hosts, tag, number)
        ray = ray_from(folder)
        temp = folder / "r"
        head = ("--head", f"--port={_PORT}", "--num-cpus=0", "--include-dashboard=false", f"--temp-dir={temp}")
        _start_node(hosts, 0, ray, *head)
        for number in range(1, num_workers + 1):
            _start_node(hosts, number, ray, f"--address={hosts.address}", "--num-cpus=2")
            # One after the other: they share this machine's disk, where two at once take the same socket's name.
            _await_nodes(hosts, number + 1)
        yield hosts
    finally:
        for raylet in hosts.raylets:
            with suppress(ProcessLookupError):
                os.killpg(raylet.pid, signal.SIGKILL)
            raylet.wait()
        for name in hosts.names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "delete", f"{tag}b"], capture_output=True, check=False)
        shutil.rmtree(folder, ignore_errors=True)


def _add_host(hosts: Hosts, tag: str, number: int) -> None:
    name, outside = hosts.names[number], f"{tag}v{number}"
    _run("netns", "add", name)
    _run("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", name)
    _run("link", "set", outside, "master", f"{tag}b")
    _run("link", "set", outside, "up")
    for words in (
        ("addr", "add", f"{_NETWORK}.{number + 1}/24", "dev", "eth0"),
        ("link", "set", "eth0", "up"),
        ("link", "set", "lo", "up"),
    ):
        _run("-n", name, *words)


def _start_node(hosts: Hosts, number: int, ray: Sequence[str], *words: str) -> None:
    options = (f"--node-ip-address={_NETWORK}.{number + 1}", f"--object-store-memory={100 * 2**20}")
    hosts.raylets.append(
        subprocess.Popen(
            hosts.command(number, *ray, "start", "--block", "--disable-usage-stats", *options, *words),
            env={**os.environ, **_ENVIRONMENT},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # All that it starts can then be ended with it.
            start_new_session=True,
        )
    )
    # The head must answer before others ask for it.
    time.sleep(8.0 if number == 0 else 0.0)


def _await_nodes(hosts: Hosts, count: int) -> None:
    wait = (
        f"import ray, time; ray.init(address={hosts.address!r}, log_to_driver=False)\n"
        f"while sum(node['Alive'] for node in ray.nodes()) < {count}: time.sleep(0.2)"
    )
    environment = {**os.environ, **_ENVIRONMENT}
    subprocess.run(hosts.command(0, sys.executable, "-c", wait), check=True, timeout=120, env=environment)


def _run(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
