"""`ray up` and `ray submit` over a real sshd on loopback, with a key and a home that are thrown away."""

from __future__ import annotations

import getpass
import os
import secrets
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import yaml

from tests.builders.command import pseudoris, wait_for
from tests.builders.head import (
    ROOT,
    end_all_with,
    free_ports,
    head_ports,
    is_listening,
    ray_from,
    run_ray,
    start_arguments,
)
from tests.builders.runs import SMALL, STUBS, write_source

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.skipif(SSHD is None, reason="sshd is missing: apt-get install openssh-server"),
    pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is missing: apt-get install rsync"),
]


@pytest.fixture(scope="module")
def launcher(wheel: Path) -> Iterator[tuple[Path, Callable[..., subprocess.CompletedProcess[str]]]]:
    folder = Path(tempfile.mkdtemp(prefix="ps-", dir="/tmp"))
    token = secrets.token_hex(16)
    try:
        (folder / "dist").mkdir()
        shutil.copy(wheel, folder / "dist")
        (port,) = free_ports(1)
        with _sshd(folder, port):
            yield _launcher(folder, port, token)
    finally:
        # `ray start` leaves daemons, whose parents are gone: the token in their environment tells them from others'.
        end_all_with(token)
        shutil.rmtree(folder, ignore_errors=True)


def test_ray_up_and_ray_submit_run_the_script_on_the_cluster(launcher, tmp_path):
    source, out = write_source(tmp_path / "in", num_images=6), tmp_path / "out"
    config, ray = launcher
    ray("up", "--yes", "--no-config-cache", str(config), code=0)
    # `ray submit` puts its words into a shell line as they are.
    settings = [word for each in (*STUBS, *SMALL) for word in ("--set", each)]
    words = ["submit", "--no-config-cache", str(config), "deploy/job_entry.py", "--", "--preset=tiny"]
    submitted = ray(*words, str(source), str(out), *settings, code=0)
    assert "9 of 9" in submitted.stdout
    pseudoris("verify", str(out), code=0)
    assert (config.parent / "home" / "job_entry.py").exists()
    # Installed without bytecode: what has it now was imported from the wheel.
    assert any((config.parent / "home" / "site" / "pseudoris" / "pipeline").glob("__pycache__/*.pyc"))

    receipts = {path: path.stat().st_mtime_ns for path in (out / "_receipts").iterdir()}
    ray(*words, str(source), str(out), *settings, code=0)
    assert receipts == {path: path.stat().st_mtime_ns for path in (out / "_receipts").iterdir()}

    failed = ray(*words, str(tmp_path / "nowhere"), str(tmp_path / "none"))
    assert failed.returncode != 0
    assert "nowhere" in failed.stdout + failed.stderr


@contextmanager
def _sshd(folder: Path, port: int) -> Iterator[None]:
    """A server for the block that knows one key, this user, and a home of its own."""
    (folder / "home").mkdir()
    for name in ("host", "key"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(words, check=True, capture_output=True)
    shutil.copy(folder / "key.pub", folder / "authorized")
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/authorized\nAuthenticationMethods publickey\nStrictModes no\nUsePAM no\n"
        f"PermitRootLogin prohibit-password\nSetEnv HOME={folder}/home\n"
    )
    if os.getuid() == 0:
        # Where the server drops its rights to; Debian's service makes it.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    arguments = [str(SSHD), "-D", "-e", "-f", str(folder / "sshd_config")]
    with (folder / "sshd.log").open("w") as log:
        process = subprocess.Popen(arguments, stdout=log, stderr=log)
        try:
            wait_for(lambda: is_listening(port), timeout_s=20)
            yield
        finally:
            process.terminate()
            process.wait()


def _launcher(folder: Path, port: int, token: str) -> tuple[Path, Callable[..., subprocess.CompletedProcess[str]]]:
    """Return the cluster file of somebody's laptop, and its `ray` command, whose `ssh` finds the server."""
    python, *ray = ray_from(folder)
    auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    remote = {
        **auth,
        "PATH": f"{Path(python).parent}:/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": f"{folder / 'home' / 'site'}:{ROOT / 'tests' / 'plugins'}",
        # Here Ray notes which cluster `auto` means.
        "RAY_TMPDIR": str(folder / "r"),
        "COLUMNS": "200",
    }
    (folder / "home" / ".bashrc").write_text(
        "".join(f"export {name}={shlex.quote(value)}\n" for name, value in remote.items())
    )
    (folder / "r").mkdir()
    # Ray's launcher has no setting for the port.
    ssh = folder / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F none -p {port} "$@"\n')
    ssh.chmod(0o755)
    start = start_arguments(None, head_ports(), num_cpus=2)
    config = {
        "cluster_name": f"loopback-{token[:8]}",
        "provider": {"type": "local", "head_ip": "127.0.0.1", "worker_ips": []},
        "auth": {"ssh_user": getpass.getuser(), "ssh_private_key": str(folder / "key")},
        "max_workers": 0,
        # As in ray_cluster.yaml: the wheel is copied and installed; here into a folder, and without what it needs.
        "file_mounts": {str(folder / "home" / "pseudoris-dist"): str(folder / "dist")},
        "setup_commands": [
            f"{python} -m pip install --quiet --no-deps --no-index --no-compile "
            f"--target {folder}/home/site {folder}/home/pseudoris-dist/pseudoris-*.whl"
        ],
        "head_start_ray_commands": [shlex.join([python, *ray, *start])],
        "worker_start_ray_commands": [],
    }
    (folder / "cluster.yaml").write_text(yaml.safe_dump(config))
    environment = {
        **os.environ,
        **auth,
        "PATH": f"{ssh.parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "RAY_TMPDIR": str(folder / "l"),
    }
    (folder / "l").mkdir()
    return folder / "cluster.yaml", partial(run_ray, environment)
