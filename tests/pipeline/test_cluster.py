"""Joining and starting Ray."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import time
import warnings

import pytest
import ray

from pseudoris.pipeline.cluster import RAY_SETTINGS, _quiet, connected, node_resources
from pseudoris.schemas.errors import ConfigError, TransientError


def test_what_ray_reports_does_not_reach_the_terminal_of_a_run(capsys):
    """Without a cluster: what Ray's thread prints, and what its modules warn of."""

    def say(task):
        lines = [f"Task {task} failed. There are infinite retries remaining."]
        report = {"pid": "raylet", "is_err": False, "lines": lines}
        ray._private.worker.print_to_stdstream(report, ignore_prefix=False)
        exec("import warnings; warnings.warn('a hint to developers')", {"__name__": "ray.data.operators"})

    with _quiet(), warnings.catch_warnings(record=True) as hints:
        say("alpha")
    assert capsys.readouterr() == ("", "")
    assert hints == []
    with warnings.catch_warnings(record=True) as hints:
        warnings.simplefilter("always")
        say("beta")
    assert "infinite retries remaining" in capsys.readouterr().out
    assert len(hints) == 1


def test_a_callers_handler_goes_on_to_hear_of_ray_data():
    handler, named = logging.StreamHandler(), logging.getLogger("ray.data")
    named.addHandler(handler)
    try:
        with _quiet():
            assert handler.level == logging.NOTSET
    finally:
        named.removeHandler(handler)


def test_ray_client_is_refused_with_the_way_to_submit_a_job():
    with pytest.raises(ConfigError, match="ray job submit"), connected("ray://head:10001"):
        pass


@pytest.mark.parametrize("address", ["ray://head:10001", "http://head:8265"])
def test_a_client_address_in_the_environment_is_refused_as_well(address, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError, match=r"of RAY_ADDRESS.*ray job submit"), connected("auto"):
        pass


@pytest.mark.ray
@pytest.mark.parametrize("address", ["https://user:hunter2@host:8265", "ray://user:hunter2@host:10001"])
def test_an_address_with_a_secret_is_not_repeated(address, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", address)
    for given, name in (("auto", "RAY_ADDRESS"), (address, "address")):
        with pytest.raises(ConfigError, match=f"^{name}: a .* uri holds credentials") as refusal, connected(given):
            pass
        assert "hunter2" not in str(refusal.value)


def test_an_open_connection_is_used_and_left_open(ray_session):
    with connected("local"):
        assert [node["CPU"] for node in node_resources()] == [2.0]
    assert ray.is_initialized()


@pytest.mark.parametrize(("given", "used"), [(None, RAY_SETTINGS), ("5", dict.fromkeys(RAY_SETTINGS, "5"))])
def test_a_ray_that_is_started_has_our_settings_unless_told_otherwise(monkeypatch, given, used):
    found = []
    for name in RAY_SETTINGS:
        # Set first, so that it is taken away again where it was not there.
        monkeypatch.setenv(name, given or "")
        if given is None:
            monkeypatch.delenv(name)

    def init(**options):
        found.append({name: os.environ[name] for name in RAY_SETTINGS})
        raise ConnectionError("no Ray")

    monkeypatch.setattr("pseudoris.pipeline.cluster.ray.is_initialized", lambda: False)
    monkeypatch.setattr("pseudoris.pipeline.cluster.ray.init", init)
    with pytest.raises(ConfigError), connected("local"):
        pass
    assert found == [used]


def test_a_ray_that_does_not_come_up_in_time_is_worth_another_try(monkeypatch):
    def times_out(**options):
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr("pseudoris.pipeline.cluster.ray.is_initialized", lambda: False)
    monkeypatch.setattr("pseudoris.pipeline.cluster.ray.init", times_out)
    with pytest.raises(TransientError, match="Ray did not start: The current node timed out"), connected("local"):
        pass


def test_a_cluster_that_goes_away_is_worth_another_try(monkeypatch):
    monkeypatch.setattr("pseudoris.pipeline.cluster.ray.is_initialized", lambda: True)
    with pytest.raises(TransientError, match=r"Ray gave up .*run the same command again"), connected("auto"):
        raise ray.exceptions.RayError("The actor never ran")


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "no-such-host.invalid"])
@pytest.mark.parametrize("is_in_environment", [False, True])
def test_an_address_that_nothing_answers_is_refused_in_seconds(host, is_in_environment, monkeypatch):
    monkeypatch.setattr("pseudoris.pipeline.cluster.ray.is_initialized", lambda: False)
    monkeypatch.setattr(
        "pseudoris.pipeline.cluster.ray.init", lambda **options: pytest.fail("Ray would try for minutes")
    )
    named = f"{host}:{closed_port()}"
    if is_in_environment:
        monkeypatch.setenv("RAY_ADDRESS", named)
    started = time.monotonic()
    refused = pytest.raises(ConfigError, match=f"no Ray cluster at address '{re.escape(named)}'.*--address local")
    with refused, connected("auto" if is_in_environment else named):
        pass
    assert time.monotonic() - started < 20


def test_joining_what_answers_and_is_no_ray_ends_with_ctrl_c(monkeypatch):
    def waits(**options):
        # As Ray does, which would have it end the process.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("went on")

    monkeypatch.setattr("pseudoris.pipeline.cluster.ray.is_initialized", lambda: False)
    monkeypatch.setattr("pseudoris.pipeline.cluster.ray.init", waits)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # A shell's background jobs, the tests perhaps among them, ignore it.
    before_int = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = f"127.0.0.1:{listener.getsockname()[1]}"
            with pytest.raises(KeyboardInterrupt), connected(address):
                pass
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, before_int)
