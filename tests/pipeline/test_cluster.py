"""Joining and starting Ray."""

from __future__ import annotations

import pytest
import ray

from pipeline.cluster import connected, node_resources
from schemas.errors import ConfigError, TransientError


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


def test_a_ray_that_does_not_come_up_in_time_is_worth_another_try(monkeypatch):
    def times_out(**options):
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr("pipeline.cluster.ray.is_initialized", lambda: False)
    monkeypatch.setattr("pipeline.cluster.ray.init", times_out)
    with pytest.raises(TransientError, match="Ray did not start: The current node timed out"), connected("local"):
        pass
