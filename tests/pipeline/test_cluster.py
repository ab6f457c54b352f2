"""Joining and starting Ray."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from unittest.mock import Mock

import pytest
import ray
from ray.exceptions import ActorDiedError, NodeDiedError, RaySystemError
from uv import find_uv_bin

from pseudoris.pipeline import executor
from pseudoris.pipeline.cluster import RAY_SETTINGS, connected, joins_cluster, original_error
from pseudoris.pipeline.memory_monitor import memory_watched
from pseudoris.primitives.errors import ConfigError, TransientError
from tests.builders.head import free_ports

START_LIMITS = ("RAY_gcs_server_port_wait_time_s", "RAY_raylet_start_wait_time_s")


def start_is(monkeypatch, init):
    """Let this process have no Ray and no setting of it, and `init` take the place of a start."""
    for name in (*RAY_SETTINGS, *START_LIMITS, "RAY_BACKEND_LOG_LEVEL"):
        # Set first, so that what a start sets is taken away again.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr("pseudoris.pipeline.cluster.ray.is_initialized", lambda: False)
    monkeypatch.setattr("pseudoris.pipeline.cluster.ray.init", init)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        *((each, r"of RAY_ADDRESS.*ray job submit") for each in ("ray://head:10001", "http://head:8265")),
        ("https://user:hunter2@host:8265", r"^RAY_ADDRESS: a .* uri holds credentials"),
    ],
)
def test_a_client_address_in_the_environment_is_refused_as_well_and_its_secret_not_repeated(address, told, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError, match=told) as refusal, connected("auto"):
        pass
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize(("given", "used"), [(None, RAY_SETTINGS), ("5", dict.fromkeys(RAY_SETTINGS, "5"))])
def test_a_ray_that_is_started_has_our_settings_unless_told_otherwise(monkeypatch, given, used):
    found = []

    def init(**options):
        found.append({name: os.environ[name] for name in RAY_SETTINGS})
        assert [os.environ[name] for name in START_LIMITS] == ["45", "45"]
        raise ConnectionError("no Ray")

    start_is(monkeypatch, init)
    for name in RAY_SETTINGS if given else ():
        monkeypatch.setenv(name, given)
    with (
        pytest.raises(ConfigError, match=r"no Ray cluster at address 'local': no Ray\. Start one \(ray start --head\)"),
        connected("local", 45),
    ):
        pass
    assert found == [used]


def test_a_ray_that_does_not_come_up_in_time_is_worth_another_try_with_a_higher_limit(monkeypatch):
    start_is(monkeypatch, Mock(side_effect=Exception("The current node timed out during startup.")))
    told = r"Ray did not start: The current node timed out.*placement\.start_timeout_s=…; it is 45 s"
    with pytest.raises(TransientError, match=told), connected("local", 45):
        pass


# Of a process without a Ray, whose raylet starts later than Ray's own limit.
_SLOW = """
import os, sys
import ray._private.services as services
from pseudoris.pipeline.cluster import connected

late = sys.argv[1]
with open(late, "w") as script:
    script.write(f'#!/bin/sh\\nsleep 35\\nexec "{services.RAYLET_EXECUTABLE}" "$@"\\n')
os.chmod(late, 0o755)
services.RAYLET_EXECUTABLE = late
with connected("local", 120):
    print("started")
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_a_ray_that_starts_after_its_own_limit_is_waited_for(tmp_path):
    # Ray reads its settings anew by itself only if the mode is not set.
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    words = [sys.executable, "-c", _SLOW, str(tmp_path / "raylet")]
    ended = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert ended.stdout == "started\n", ended.stderr


_OF_UV = """
import ray
from pseudoris.pipeline.cluster import connected

with connected("local", 120):
    print(dict(ray.get_runtime_context().runtime_env), ray.get(ray.remote(lambda: "works").remote()))
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_driver_of_uv_run_uploads_nothing_of_its_folder_and_works_in_a_path_with_a_space(tmp_path):
    environment, python = tmp_path / "an environment", tmp_path / "an environment" / "bin" / "python"
    uv = [find_uv_bin(), "--offline", "--no-config"]
    subprocess.run([*uv, "venv", "--python", sys.executable, str(environment)], check=True, capture_output=True)
    with (tmp_path / "photograph.jpg").open("wb") as large:
        large.truncate(700 * 10**6)
    (tmp_path / "driver.py").write_text(_OF_UV)
    # Packages stand in this environment; the other one is a path with a space alone.
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "VIRTUAL_ENV": str(environment)}
    words = [*uv, "run", "--no-project", "--python", str(python), "python", "driver.py"]
    words = ["uv", "run", *words[words.index("run") + 1 :]]
    ended = subprocess.run(
        words, executable=uv[0], capture_output=True, text=True, check=False, cwd=tmp_path, env=variables
    )
    assert ended.stdout == "{} works\n", ended.stderr


# Of a process without a Ray. RAY_TMPDIR has 60 letters, then one too many, then as many as it may have.
_FOLDERS = """
import os, re, sys
from pseudoris.pipeline.cluster import connected
from pseudoris.primitives.errors import ConfigError

def start(length):
    os.environ["RAY_TMPDIR"] = sys.argv[1].ljust(length, "x")
    try:
        with connected("local"):
            return f"started with {length}"
    except ConfigError as error:
        return str(error)

refused = start(60)
longest = int(re.search("use ([0-9]+) at most", refused)[1])
print(refused, start(longest + 1), start(longest), longest, sep="\\n")
"""


@pytest.mark.ray
@pytest.mark.long
def test_the_longest_temporary_folder_is_named_and_works():
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        words = [sys.executable, "-c", _FOLDERS, f"{folder}/"]
        ended = subprocess.run(words, capture_output=True, text=True, check=False)
    *refused, started, longest = ended.stdout.splitlines()
    assert refused[0].startswith(f"Ray cannot use the temporary folder '{folder}/x")
    assert "its path has 60 bytes. " in refused[0]
    assert refused[0].endswith("may have a path of 107. Set RAY_TMPDIR to another one, such as /tmp")
    assert f"its path has {int(longest) + 1} bytes. Ray can use {longest} at most" in refused[1]
    assert started == f"started with {longest}", ended.stderr


def test_a_cluster_that_goes_away_is_worth_another_try(monkeypatch):
    monkeypatch.setattr("pseudoris.pipeline.cluster.ray.is_initialized", lambda: True)
    with pytest.raises(TransientError, match=r"Ray gave up .*run the same command again"), connected("auto"):
        raise ray.exceptions.RayError("The actor never ran")


def test_an_error_of_ray_in_a_run_is_raised_as_ours_without_its_frames(monkeypatch):
    def fail(*arguments, **options):
        raise ray.exceptions.RayError("a node was lost")

    monkeypatch.setattr(executor, "build_dataset", fail)
    with pytest.raises(TransientError, match=r"a node was lost.*run the same command again") as caught:
        list(executor.run_shards(None, [0], {}))
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    # Frames would keep the actors, and their CPUs.
    assert all(entry.name != "fail" for entry in caught.traceback)


# The frame with which a server of HTTP/2 answers, as Ray's gRPC is.
HTTP2_SETTINGS = b"\0\0\0\4\0\0\0\0\0"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "no-such-host.invalid"])
@pytest.mark.parametrize("is_in_environment", [False, True])
def test_an_address_that_nothing_answers_is_refused_in_seconds(host, is_in_environment, monkeypatch):
    start_is(monkeypatch, lambda **options: pytest.fail("Ray would try for minutes"))
    named = f"{host}:{free_ports(1)[0]}"
    if is_in_environment:
        monkeypatch.setenv("RAY_ADDRESS", named)
    started = time.monotonic()
    refused = pytest.raises(ConfigError, match=f"no Ray cluster at address '{re.escape(named)}'.*--address local")
    with refused, connected("auto" if is_in_environment else named):
        pass
    assert time.monotonic() - started < 20


@contextmanager
def listening(answer: bytes) -> Iterator[str]:
    """Yield the address of a listener that gives one answer and then says no more."""
    with socket.create_server(("0.0.0.0", 0)) as listener, ExitStack() as stack:

        def serve():
            with suppress(OSError):
                while True:
                    stack.enter_context(listener.accept()[0]).sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(timeout=10)


@pytest.mark.parametrize("is_there", [False, True])
def test_a_cluster_on_record_is_joined_only_if_it_answers(is_there, tmp_path, monkeypatch):
    asked, greeted, connect = Mock(side_effect=ConnectionError("no Ray")), [], socket.create_connection
    start_is(monkeypatch, asked)
    monkeypatch.setattr(
        socket, "create_connection", lambda *words, **kw: (greeted.append(words), connect(*words, **kw))[1]
    )
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with listening(HTTP2_SETTINGS) as address:
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text(address if is_there else f"127.0.0.1:{free_ports(1)[0]}")
        for _ in range(2):
            assert joins_cluster("auto") is is_there
            before = len(greeted)
            with pytest.raises(ConfigError, match="no Ray"), connected("auto"):
                pass
            # A start asks no second time, which may take seconds; the next start asks anew.
            assert len(greeted) == before > 0
            greeted.clear()
        with pytest.raises(ConfigError, match="no Ray"), connected("auto"):
            pass
        assert greeted
    assert [call.kwargs.get("address", "auto") for call in asked.mock_calls] == ["auto" if is_there else "local"] * 3


@pytest.mark.parametrize(
    ("answer", "said"), [(b"", "timed out"), (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is not a Ray cluster")]
)
def test_a_listener_that_is_no_ray_is_refused_in_seconds(answer, said, monkeypatch):
    start_is(monkeypatch, lambda **options: pytest.fail("Ray would try for minutes"))
    started = time.monotonic()
    with listening(answer) as address:
        refused = pytest.raises(ConfigError, match=f"no Ray cluster at address '{re.escape(address)}': .*{said}")
        with refused, connected(address):
            pass
    assert time.monotonic() - started < 20


def test_joining_what_answers_and_is_no_ray_ends_with_ctrl_c(monkeypatch):
    def waits(**options):
        # As Ray does, which would have it end the process.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("went on")

    start_is(monkeypatch, waits)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # A shell's background jobs, the tests perhaps among them, ignore it.
    before_int = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        # As a Ray that then hangs.
        with listening(HTTP2_SETTINGS) as address, pytest.raises(KeyboardInterrupt), connected(address):
            pass
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, before_int)


@pytest.mark.parametrize("error", [ActorDiedError(), NodeDiedError("node 17 is gone\nand a page more")])
def test_a_lost_process_or_node_is_transient_and_says_how_to_continue(error):
    found = original_error(error)
    assert isinstance(found, TransientError)
    assert "run the same command again" in str(found)
    assert "\n" not in str(found)


def test_an_interrupt_is_not_held_up_by_a_question_that_ray_does_not_answer(monkeypatch):
    asked, is_over = threading.Event(), threading.Event()

    def accessor():
        asked.set()
        is_over.wait(60)
        raise RaySystemError("Ray is gone")

    monkeypatch.setattr("ray._private.state.state._connect_and_get_accessor", accessor)
    with suppress(KeyboardInterrupt), memory_watched(interval_s=0.01):
        assert asked.wait(30)
        began = time.monotonic()
        raise KeyboardInterrupt
    assert time.monotonic() - began < 10
    is_over.set()
