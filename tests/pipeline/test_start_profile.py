"""The report on a start: steps without gaps, the tasks of Ray's workers, every process by what it runs."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from pseudoris.cli.console import SafeConsole
from pseudoris.cli.start_view import start_view
from pseudoris.pipeline.annotation import annotate
from pseudoris.pipeline.start_profile import StartProfile, process_groups, process_name
from tests.builders.runs import stub_config, write_source


@pytest.mark.ray
def test_a_run_tells_its_steps_and_the_tasks_up_to_the_first_commit(ray_session, tmp_path):
    events = []
    profile = StartProfile(events.append)
    annotate(
        str(write_source(tmp_path / "in", num_images=6)),
        str(tmp_path / "out"),
        stub_config(),
        on_event=profile.on_event,
    )
    report = profile.report
    assert events
    ends = [span.began_s + span.took_s for span in report.steps]
    assert [span.began_s for span in report.steps] == pytest.approx([0.0, *ends[:-1]])
    assert ends[-1] == pytest.approx(report.first_commit_s)
    assert [span.name for span in report.steps][-2:] == ["listing and planning", "workers, models, the first shard"]
    assert any("StageActor" in span.name for span in report.tasks)
    assert all(span.took_s >= 0 for span in report.tasks)
    console = SafeConsole(width=200, record=True)
    console.print(start_view(report))
    shown = console.export_text()
    assert f"start: {report.first_commit_s:.1f} s to the first commit" in shown
    assert "raylet" in shown


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
