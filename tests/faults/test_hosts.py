"""Nodes as hosts of their own, and a cable that is cut: the node lives, works on, and is too late."""

from __future__ import annotations

import pytest

from tests.builders.hosts import can_make_hosts, ray_hosts
from tests.faults.conftest import SLOWER
from tests.faults.harness import prove, start_driver

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.long]


def test_a_node_that_is_cut_off_and_works_on_doubles_nothing(source, undisturbed, tmp_path):
    if not can_make_hosts():
        pytest.skip("this process may not make network namespaces")
    with ray_hosts(3) as hosts:
        prefix = tuple(hosts.command(0))
        driver = start_driver(source, tmp_path, hosts.address, *SLOWER, prefix=prefix)
        driver.wait_for_commits(1)
        pid = int(driver.attempt().process.partition("-")[0])
        hosts.cut(hosts.host_of(pid))
        left = driver.finish()
    prove(tmp_path, undisturbed, fault="a node is cut off", how="the link of 1 of 3 network namespaces set down")
    assert left["repeats"] >= 1
