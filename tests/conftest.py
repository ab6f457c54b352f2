"""Fixtures of more than one package: a Ray of fixed size, and engines that need no model."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.builders.s3 import ENVIRONMENT, FORBIDDEN, S3Server, serving_s3

# Idle threads of one process must not spin on the cores of another: read by libgomp when torch loads it. With two
# processes on two cores, the engines' tests took twice the CPU time otherwise.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# pytest-xdist sets it in its processes, and a console that finds it when it is made keeps that width for good.
os.environ.pop("COLUMNS", None)

# A property's time says nothing on a shared machine; speed is a benchmark's business.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

PLUGINS = Path(__file__).parent / "plugins"
RAY_CPUS = 2
# Who asks for one of these has a Ray on this machine, whether or not it is marked.
RAY_FIXTURES = {"ray_session", "tiny_run", "cluster"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test that has a Ray to one of the parallel processes: two Rays at once starve each other."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if item.get_closest_marker("ray") or fixtures & RAY_FIXTURES:
            item.add_marker(pytest.mark.xdist_group("ray"))


@pytest.fixture(scope="session")
def stub_engines() -> None:
    """Make `tests/plugins` importable, its entry points known, here and in processes started from now on."""
    sys.path.insert(0, str(PLUGINS))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PLUGINS), os.environ.get("PYTHONPATH")]))


@pytest.fixture(scope="session")
def s3_credentials() -> Iterator[None]:
    """Put credentials for a test server into the environment, here and in processes started from now on."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        for name in FORBIDDEN:
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def s3_server(s3_credentials: None) -> Iterator[S3Server]:
    """Run one S3 server for the whole session; each test makes its own bucket, as `s3_bucket` does."""
    with serving_s3() as server:
        yield server


@pytest.fixture
def s3_bucket(s3_server: S3Server) -> str:
    """Create a bucket for one test, and return its name."""
    return s3_server.new_bucket()


@pytest.fixture(scope="session")
def ray_session(stub_engines: None, s3_credentials: None) -> Iterator[str]:
    """Start one local Ray of two CPUs for the whole session, and yield where it logs; `annotate` uses it as it is."""
    import ray

    connected = ray.init(
        address="local",
        num_cpus=RAY_CPUS,
        object_store_memory=1_500 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield str(Path(connected["session_dir"]) / "logs")
    ray.shutdown()
