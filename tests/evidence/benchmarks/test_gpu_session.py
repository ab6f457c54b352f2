"""Ten minutes of a GPU, as far as they run where there is none."""

import inspect
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evidence.benchmarks import gpu_session, gpu_session_work

ROOT = Path(__file__).parents[3]
# What a bare GPU machine has not.
ABSENT = ["ray", "spacy", "s3fs", "typer", "jinja2", "boto3"]
CASES = [(item, case) for item, (_, cases) in gpu_session.ITEMS.items() for case in cases]


def started(tmp_path, *arguments):
    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.modules.update(dict.fromkeys({ABSENT}))\n")
    command = [sys.executable, "-m", "evidence.benchmarks.gpu_session", "--out", str(tmp_path / "out.jsonl")]
    return subprocess.Popen(
        [*command, "--device", "pretended", "--tiny", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.long
def test_a_session_that_is_killed_goes_on_with_what_it_lacks(tmp_path):
    path = tmp_path / "out.jsonl"
    with started(tmp_path, "--items", "profile") as killed:
        while not path.exists() or not path.read_bytes().count(b"\n"):
            assert killed.poll() is None, killed.stderr.read()
            time.sleep(0.01)
        os.kill(killed.pid, signal.SIGKILL)
    before = gpu_session.read(path)
    assert 1 <= len(before) < 4
    # As a machine that loses power leaves it.
    with path.open("a") as file:
        file.write('{"item": "profile", "case": "st')
    with started(tmp_path, "--items", "profile") as again:
        shown, errors = again.communicate(timeout=600)
    assert again.returncode == 0, errors
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[: len(before)] == before
    cases = [line["case"] for line in lines]
    assert len(cases) == len(set(cases)) == 4
    assert all(line["device"].startswith("no GPU, a CPU that pretends: ") for line in lines)
    assert all(line["figures"]["waits"] > 0 and line["figures"]["aten_calls"] > 1000 for line in lines)
    # No figure of a GPU comes from a CPU.
    assert not any("kernel_s" in line["figures"] or line["figures"]["peak_bytes"] for line in lines)
    assert all(f"profile: {case}; " in shown for case in cases)
    with started(tmp_path, "--items", "profile") as done:
        assert ": measured" not in done.communicate(timeout=600)[0]
    assert len(path.read_text().splitlines()) == 4


@pytest.mark.slow
@pytest.mark.long
def test_what_is_out_of_time_or_not_there_yet_says_so_and_has_no_figures(tmp_path):
    with started(tmp_path, "--items", "operators", "processes", "--seconds", "0.1") as late:
        shown, errors = late.communicate(timeout=600)
    assert late.returncode == 1
    assert "not measured, and tried again by the same command: operators" in errors
    lines = {line["case"]: line for line in gpu_session.read(tmp_path / "out.jsonl")}
    assert lines["operators"]["not_measured"] == "its 0 s were over"
    assert lines["under NVIDIA's MPS: not there yet"]["not_measured"] == "not there yet"
    assert not any("figures" in line for line in lines.values())
    assert "operators: operators; its 0 s were over" in shown


@pytest.mark.long
def test_captions_masks_and_embeddings_are_compared_with_their_references_and_timed_beside_them(tmp_path):
    with started(tmp_path, "--items", "authors") as session:
        _, errors = session.communicate(timeout=600)
    assert session.returncode == 0, errors
    figures = {line["case"]: line["figures"] for line in gpu_session.read(tmp_path / "out.jsonl")}
    assert all(each["agrees"] for each in figures.values())
    timed = {case.split()[0]: {name for name in each if name.endswith("_s")} for case, each in figures.items()}
    assert timed == {
        "authors": {"authors_s", "ours_s"},
        "meta": {"meta_s", "autocast_s", "ours_s"},
        "embeddings": set(),
    }


def test_all_limits_are_ten_minutes():
    assert sum(limit_s for limit_s, _ in gpu_session.ITEMS.values()) == 600


@pytest.mark.parametrize(("item", "case"), [(item, case) for item, case in CASES if ":" not in case])
def test_every_case_is_a_function_with_its_arguments(item, case):
    name, *words = case.split()
    inspect.signature(getattr(gpu_session_work, name)).bind(None, **dict(word.split("=") for word in words))


def test_a_file_of_something_else_stays_as_it_is(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("mine\nand no end")
    with pytest.raises(SystemExit, match="is no file of a session"):
        gpu_session.read(path)
    assert path.read_text() == "mine\nand no end"


def event(kind, name, number, microseconds=1.0):
    return {"ph": "X", "cat": kind, "name": name, "dur": microseconds, "args": {"External id": number}}


def test_a_trace_says_which_kernels_and_operations_took_the_gpus_time():
    copy = "Memcpy HtoD (Pinned -> Device)"
    events = [
        *(event("cpu_op", name, number) for number, name in enumerate(["aten::mm", "aten::topk", "mine"])),
        *(event("cuda_runtime", name, 0) for name in ("cudaLaunchKernel", "cudaLaunchKernelExC", "cudaMemcpyAsync")),
        event("cuda_runtime", "cudaStreamSynchronize", 1),
        event("kernel", "gemm", 0, 3e6),
        *(event("kernel", "sort", 1, 1e6) for _ in range(4)),
        event("kernel", "triton", 7, 1e6),
        event("gpu_memcpy", copy, 0, 9e6),
        {"ph": "M", "name": "process_name", "args": {}},
    ]
    found = gpu_session_work.summary(events)
    assert (found["aten_calls"], found["kernels"], found["kernel_s"], found["launches"]) == (2, 6, 8.0, 2)
    assert found["by_kernel"] == [("sort", 4.0, 4), ("gemm", 3.0, 1), ("triton", 1.0, 1)]
    assert found["by_op"] == [("aten::topk", 4.0, 4), ("aten::mm", 3.0, 1), ("?", 1.0, 1)]
    assert (found["synchronisations"], found["copies"]) == ({"cudaStreamSynchronize": 1}, {copy: 1})
