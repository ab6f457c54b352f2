"""Fixtures of more than one package: a Ray of fixed size, and engines that need no model."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# A property's time says nothing on a shared machine; speed is a benchmark's business.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

PLUGINS = Path(__file__).parent / "plugins"
RAY_CPUS = 2


@pytest.fixture(scope="session")
def stub_engines() -> None:
    """Make `tests/plugins` importable, its entry points known, here and in processes started from now on."""
    sys.path.insert(0, str(PLUGINS))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PLUGINS), os.environ.get("PYTHONPATH")]))


@pytest.fixture(scope="session")
def ray_session(stub_engines: None) -> Iterator[None]:
    """Start one local Ray of two CPUs for the whole session; `annotate` uses it as it finds it."""
    import ray

    ray.init(
        address="local",
        num_cpus=RAY_CPUS,
        object_store_memory=1_500 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield
    ray.shutdown()
