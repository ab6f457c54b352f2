"""`pseudoris status` reads the output alone."""

from __future__ import annotations

import json
import signal
import threading
import time

import pytest
from typer.testing import CliRunner

from pseudoris.cli.main import app
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.commit import Provenance
from pseudoris.store.runs.lock import RunLock
from tests.builders.command import pseudoris_here, start_pseudoris
from tests.store.builders import commit, start_run


def test_status_of_a_folder_without_a_run_says_how_to_start_one(tmp_path):
    shown = pseudoris_here("status", str(tmp_path))
    assert shown.returncode == 2
    assert "pseudoris annotate" in shown.stderr


def shown(*arguments: str) -> str:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["status", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def unbroken(text: str) -> str:
    """Return the text on one line: where a table breaks lines depends on the length of the folder's name."""
    return " ".join(text.split())


def test_a_live_run_shows_its_driver_speed_what_is_left_and_the_bottleneck(tmp_path):
    location = RunLocation.open(str(tmp_path))
    header = start_run(location)
    with RunLock.held(location):
        commit(location, header, 0, provenance=Provenance(attempts={"fused": 2}, mixed=("device_kind: …",)))
        printed = unbroken(shown(str(tmp_path)))
    assert "running" in printed
    assert "is running" in printed
    assert "images/s overall" in printed
    assert "8 images, about" in printed
    assert "caption: 57% of the time of all stages" in printed
    assert "repeated 1 attempts, after the loss" in printed
    assert "all except 0 degraded and 1 mixed shards" in printed


def test_json_has_every_figure(tmp_path):
    location = RunLocation.open(str(tmp_path))
    commit(location, start_run(location), 0, 1, 2)
    found = json.loads(shown(str(tmp_path), "--json"))
    assert (found["is_complete"], found["num_done"], found["reasons"]) == (True, 3, {"corrupt": 3})
    assert found["rates"]["overall"] > 0
    assert found["driver"]["state"] == "none"


@pytest.mark.slow
def test_watch_ends_when_the_run_is_complete(tmp_path):
    location = RunLocation.open(str(tmp_path))
    header = start_run(location)
    commit(location, header, 0)

    def finish() -> None:
        time.sleep(1.0)
        commit(location, header, 1, 2)

    worker = threading.Thread(target=finish)
    worker.start()
    lines = shown(str(tmp_path), "--watch", "--every", "0.5", "--json").splitlines()
    worker.join()
    assert [json.loads(line)["is_complete"] for line in (lines[0], lines[-1])] == [False, True]
    assert "complete" in shown(str(tmp_path), "--watch")


@pytest.mark.slow
def test_ctrl_c_ends_a_watch_with_its_last_view_and_no_traceback(tmp_path):
    location = RunLocation.open(str(tmp_path))
    commit(location, start_run(location), 0)
    process = start_pseudoris("status", str(tmp_path), "--watch", "--every", "0.5")
    time.sleep(6)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "1 of 3" in printed
    assert "Traceback" not in errors
