"""What processes have used is told by what they run."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from benchmarks.process_groups import process_groups, process_name


def test_processes_are_grouped_by_what_they_run_and_the_ended_ones_keep_their_cpu():
    command = psutil.Process()
    child = [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "0"]
    with subprocess.Popen(child, stdout=subprocess.PIPE) as server:
        try:
            # It has named itself once it serves.
            assert server.stdout.readline()
            groups = {group.name: group for group in process_groups(command)}
        finally:
            server.kill()
    assert groups["http.server"].count == 1
    assert groups["http.server"].began_s > 0
    assert groups["http.server"].pss_bytes > 2**20
    assert groups["the command"].cpu_s > 0
    subprocess.run([sys.executable, "-c", "sum(range(20_000_000))"], check=True)
    ended = [group for group in process_groups(command) if group.name == "ended"]
    assert ended[0].cpu_s > groups["ended"].cpu_s


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["ray::MapWorker(MapBatches(StageActor)).__init__", ""], "ray::MapWorker(MapBatches(StageActor)).__init__"),
        (
            ["/usr/bin/python", "-P", "-m", "pseudoris.images.prover_main", "-x"],
            "pseudoris.images.prover_main",
        ),
        (["/usr/bin/python", "-u", "/lib/ray/dashboard/agent.py", "--port=0"], "dashboard/agent.py"),
        (["/lib/ray/core/src/ray/raylet/raylet", "--raylet_socket_name=x"], "raylet/raylet"),
        ([], "ended"),
    ],
)
def test_a_process_is_named_by_its_module_script_title_or_program(words, name):
    assert process_name(words) == name
