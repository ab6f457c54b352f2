"""One cluster, one source and one undisturbed run for all fault tests that can share them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders.runs import write_source
from tests.faults.harness import LocalCluster, local_cluster, start_driver

# Eight shards of four; a shard takes half a second of sleep, so that there is a midst to strike in.
NUM_IMAGES = 29
# Where a strike must find a shard in its midst: two seconds of it.
SLOWER = ("masks.options.sleep_s=0.5", "placement.fused.max_actors=2")
SLOW = ("masks.options.sleep_s=0.12", "placement.fused.max_actors=2")


@pytest.fixture(scope="session")
def cluster(stub_engines: None, s3_credentials: None) -> Iterator[LocalCluster]:
    with local_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("images"), NUM_IMAGES)


@pytest.fixture(scope="session")
def undisturbed(cluster: LocalCluster, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    start_driver(source, out, cluster.address, *SLOW).finish()
    return out
