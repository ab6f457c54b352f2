"""`ray job submit` and `ray job stop` against a job server: runs, resumes, and a stop that leaves nothing behind."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pseudoris.store.runs.lock import LOCK_FOLDER
from tests.builders.command import pseudoris, wait_for
from tests.builders.head import ROOT, Head, running_head
from tests.builders.runs import SMALL, STUBS, part_digests, write_source

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.long]

NUM_SHARDS = 6
INTERRUPTED = 130


@pytest.fixture(scope="module")
def head():
    environment = {
        # `python` of a job is the node's.
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "tests" / "plugins"),
        "RAY_JOB_STOP_WAIT_TIME_S": "60",
        # As in ray_cluster.yaml and the image: what the wheel needs is on the node.
        "PIP_NO_DEPS": "1",
    }
    with running_head(environment=environment) as started:
        yield started


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("jobs") / "in", num_images=18)


@pytest.fixture(scope="module")
def undisturbed(head: Head, wheel: Path, source: Path):
    """A run that nothing stopped, and what its submission printed."""
    out = source.parent / "undisturbed"
    return out, submit(head, wheel, "--", *command(source, out), code=0)


def submit(head: Head, wheel: Path, *words: str, code: int | None = None) -> subprocess.CompletedProcess[str]:
    """Submit a job that brings the wheel, as docs/guides/cluster.md has it."""
    brings = json.dumps({"py_modules": [str(wheel)]})
    return head.ray("job", "submit", "--runtime-env-json", brings, *words, code=code)


def command(source: Path, out: Path, *, sleep_s: float = 0.0) -> list[str]:
    """The entry script as docs/guides/cluster.md has it, `sleep_s` of work an image."""
    assignments = (*STUBS, *SMALL, f"masks.options={{sleep_s: {sleep_s}}}")
    settings = [word for each in assignments for word in ("--set", each)]
    return ["python", "-m", "pseudoris.deploy.job_entry", str(source), str(out), "--preset=tiny", *settings]


def receipts(out: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of each receipt: a shard that is computed again would get another."""
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (out / "_receipts").glob("*.json")}


def claim(out: Path) -> dict[str, object]:
    """The newest claim of the run's lock."""
    return json.loads(max((out / LOCK_FOLDER).glob("claim-*.json")).read_text())


def test_a_submitted_run_ends_whole_and_verified(undisturbed):
    out, submitted = undisturbed
    assert "21 of 21" in submitted.stdout
    assert len(receipts(out)) == NUM_SHARDS
    pseudoris("verify", str(out), code=0)


def test_a_mistake_fails_the_job_with_the_command_s_exit_code(head, wheel, source):
    failed = submit(head, wheel, "--", *command(source / "nowhere", source.parent / "none"))
    assert failed.returncode != 0
    assert "exit code 2" in failed.stdout + failed.stderr
    assert "nowhere' does not exist" in failed.stdout + failed.stderr


def test_a_stopped_job_is_interrupted_gives_the_lock_back_and_resumes(head, wheel, source, undisturbed):
    out, code = source.parent / "stopped", source.parent / "code"
    # Slow enough that the stop finds it at work, on a busy machine too; the tables do not follow from it.
    slow = command(source, out, sleep_s=1.5)
    # Its shell outlives the signal, which goes to every process of the job, to say what the run ended with.
    script = f"trap : TERM; {shlex.join(slow)}; echo $? > {code}"
    options = ("--no-wait", "--submission-id=stopped")
    submit(head, wheel, *options, "--", "bash", "-c", script, code=0)
    wait_for(lambda: bool(receipts(out)), timeout_s=120)
    stopped = head.ray("job", "stop", "stopped")
    assert "was stopped" in stopped.stdout, stopped.stdout + stopped.stderr
    assert int(code.read_text()) == INTERRUPTED
    assert "run the same command again" in head.ray("job", "logs", "stopped").stdout
    assert claim(out)["is_released"]
    kept = receipts(out)
    assert 0 < len(kept) < NUM_SHARDS
    submit(head, wheel, "--", *slow, code=0)
    assert kept.items() <= receipts(out).items()
    assert part_digests(out) == part_digests(undisturbed[0])
    pseudoris("verify", str(out), code=0)


def test_driver_and_workers_of_a_job_run_the_wheel_that_it_brings(head, wheel):
    script = (
        "import json, ray, pseudoris.files.location as ours; ray.init(log_to_driver=False); "
        "of = ray.remote(lambda: __import__('pseudoris.files.location').__file__); "
        "print('FOUND', json.dumps([ours.__file__, ray.get(of.remote())]))"
    )
    ended = submit(head, wheel, "--", "python", "-c", script, code=0)
    (line,) = [each for each in ended.stdout.splitlines() if each.startswith("FOUND")]
    assert [path for path in json.loads(line.removeprefix("FOUND ")) if "/py_modules_files/" not in path] == []
