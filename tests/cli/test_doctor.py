"""`pseudoris doctor` says what would stop a run, and its exit code says whether something would."""

import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from pseudoris.cli.doctor import run_checks
from pseudoris.files.location import RunLocation
from pseudoris.pipeline.run_contract import tile_sentence
from pseudoris.schemas.config_layers import load_config
from pseudoris.synthworld.demo import write_demo
from pseudoris.workers.captions import decoder_choice, static_proof
from pseudoris.workers.device import compute_dtype
from tests.builders.command import invoke, pseudoris
from tests.builders.images import png
from tests.builders.scored_runs import scored_run
from tests.store.builders import make_entries, start_run


def check_of(name, config=None, **places):
    """Return the check of that name: of the preset tiny, without SOURCE and OUT, by default."""
    checks = run_checks(config or load_config("tiny"), **{"source": None, "out": None, **places})
    return next(each for each in checks if each.name == name)


@pytest.mark.slow
def test_the_embedded_preset_is_healthy_here(tmp_path):
    source = write_demo(tmp_path / "source", num_scenes=1)
    shown = pseudoris("doctor", str(source), str(tmp_path / "out"), code=0)
    assert all(word in shown.stdout for word in ("torch", "weights: propose", "broken-text.jpg", "can be written"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("assignments", "name", "remedy"),
    [
        (["masks.weights.uri=gone.pth", "masks.weights.how_to_get=curl -O …"], "weights: propose", "curl -O"),
        (["captions.engine=blip"], "weights: caption", "known: coca"),
    ],
)
def test_what_is_off_is_one_line_with_the_remedy(assignments, name, remedy):
    config = load_config("tiny", assignments=assignments)
    (check,) = (check for check in run_checks(config, source=None, out=None) if not check.is_ok)
    assert (check.name, remedy in check.detail) == (name, True)


def test_the_check_of_source_counts_what_would_not_be_listed(tmp_path):
    for name in ("a.png", "b.heic", "c.heic", "d"):
        (tmp_path / name).write_bytes(png())
    check = check_of("source", source=str(tmp_path))
    assert check.is_ok
    assert "The first are a.png\nnot listed: 2 .heic, 1 without an extension\nto read HEIC files: pip" in check.detail


def test_the_preset_is_named_or_that_of_the_run_or_tiny_and_the_first_line_says_which(tmp_path, monkeypatch):
    monkeypatch.setattr("pseudoris.cli.doctor.run_checks", lambda config, *, source, out: iter(()))

    def first_line(*words: object) -> str:
        return invoke("doctor", *words).stdout.splitlines()[0].strip()

    run, new, config = RunLocation.open(str(tmp_path / "run")), tmp_path / "new", tmp_path / "mine.yaml"
    start_run(run, make_entries(1), config=load_config("tiny-composed"))
    config.write_text("preset: base\n")
    assert first_line(tmp_path, run.root) == "doctor, preset tiny-composed"
    assert first_line(tmp_path, run.root, "--preset", "paper") == "doctor, preset paper"
    assert first_line("--config", config) == "doctor, preset base"
    for words in ((), (tmp_path, new), (tmp_path, new, "--set", "compute.seed=1")):
        assert first_line(*words) == "doctor, preset tiny, as none is named. annotate asks for one"
    (tmp_path / "run" / "_run.json").write_text("{")
    assert first_line(tmp_path, run.root) == "doctor, preset tiny, as none is named. annotate asks for one"


def test_an_output_with_a_run_of_other_settings_is_off(tmp_path, monkeypatch):
    # Another test may have left this process connected to a Ray.
    monkeypatch.setattr("pseudoris.pipeline.cluster.joins_cluster", lambda address: False)
    scored_run(RunLocation.open(str(tmp_path)))
    mixed = ("placement.allow_mixed=true", "placement.address=local")
    same = check_of("output", load_config("tiny", assignments=["filtering.tau=1.0", *mixed]), out=str(tmp_path))
    assert (same.is_ok, "continues a run of these settings" in same.detail) == (True, True)
    config = load_config("tiny", assignments=["filtering.tau=1.0", *mixed])
    check = check_of("output", config, source=str(tmp_path / "elsewhere"), out=str(tmp_path))
    assert (check.is_ok, "if its images have moved, add --moved-from" in check.detail) == (False, True)
    check = check_of("output", load_config("tiny", assignments=["filtering.tau=1.0", *mixed[1:]]), out=str(tmp_path))
    assert (check.is_ok, check.detail[-13:]) == (False, "--allow-mixed")
    check = check_of("output", load_config("tiny-composed"), out=str(tmp_path))
    # Not every setting that follows from it.
    assert re.search(
        "preset: 'tiny' in the run, 'tiny-composed' now, and with it .*Use --preset tiny", check.detail, re.S
    )
    assert (check.is_ok, "captions" in check.detail) == (False, False)


TOO_LOW = "open files: 64 is too low for Ray on this machine: raise it (ulimit -n), at least to 256"


@pytest.mark.slow
def test_too_few_open_files_are_told_before_anything_starts(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    limited = ["bash", "-c", 'ulimit -n 64; exec "$@"', "bash", sys.executable, "-m", "pseudoris.cli.main"]
    limited += ["annotate", "--preset=tiny", "a.png", "out", "--address", "local"]
    ended = subprocess.run(limited, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "COLUMNS": "400"})
    assert ended.returncode == 2
    assert TOO_LOW in ended.stderr
    assert "Traceback" not in ended.stderr


def test_what_auto_is_on_a_card_that_is_not_here_is_printed_as_set_takes_it_and_nothing_is_checked(monkeypatch):
    monkeypatch.setattr("pseudoris.cli.doctor.run_checks", lambda config, *, source, out: pytest.fail("checked"))

    def printed(*words):
        return invoke("doctor", "--card-memory=24", *words, columns=20).stdout.split()

    memory = ["masks.points_per_batch=32", f"captions.cache_bytes={4 * 2**30}", "captions.crops_together=640"]
    assert printed("--preset=base") == [*memory, "compute.precision=bfloat16"]
    assert printed("--preset=paper") == memory
    assert printed("--preset=base", "--set", "compute.precision=float16") == memory
    config = load_config("base", assignments=printed("--preset=base"))
    assert config.decided(config) == ""
    # Only fixed shapes take crops together.
    alone = [*memory[:2], "captions.crops_together=1", "compute.precision=bfloat16"]
    assert printed("--preset=open") == printed("--preset=base", "--set", "captions.decoder=tree") == alone
    told = invoke("doctor", "--card-memory=16", "--preset=base", columns=20).stderr.splitlines()
    assert told == [
        "note below compute capability 8.0 compute.precision=float32",
        "note where fixed shapes fail their proof captions.crops_together=1",
    ]
    assert printed("--preset=tiny") == ["tiny", "leaves", "nothing", "to", "the", "card"]


@pytest.fixture
def a_gpu(monkeypatch):
    """A GPU of 80 GiB, as torch would name it."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "NVIDIA H100")
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (79 * 2**30, 80 * 2**30))
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (9, 0))
    monkeypatch.delenv("CUDA_MPS_PIPE_DIRECTORY", raising=False)


def test_on_a_gpu_one_line_says_which_attention_runs_and_why_and_one_what_follows_from_the_card(a_gpu):
    shown = invoke("doctor", "--preset", "base", columns=600, code=1).stdout
    (line,) = [line for line in shown.splitlines() if "NVIDIA H100" in line]
    assert re.search(r"79.0 GiB of 80.0 GiB free, attention by plain torch, slower .* \(\w+Error: .*\)\. By", line)
    # Without a compiler for it, Triton decodes nothing in fixed shapes, and images stay alone.
    chosen = f"captions.cache_bytes={16 * 2**30}, captions.crops_together=1, compute.precision=bfloat16"
    assert f"By the card: masks.points_per_batch=64, {chosen}" in line


def test_what_the_card_decides_is_decided_before_fixed_shapes_are_proven(a_gpu, monkeypatch):
    def fault(captions, compute, *, is_short):
        assert (compute_dtype(compute), captions.cache_bytes) == (torch.bfloat16, 16 * 2**30)
        return ""

    monkeypatch.setattr(decoder_choice, "triton_version", lambda: ("3.5.1", ""))
    monkeypatch.setattr(static_proof, "fault_of_fixed_shapes", fault)
    config = load_config("base", assignments=["compute.seed=11"])
    assert check_of("captions by", config).detail == "static"


def test_mps_that_is_asked_for_without_its_daemon_is_one_sentence(a_gpu, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    config = load_config("base")
    device = check_of("device", config)
    assert (device.is_ok, "no daemon of NVIDIA's MPS runs there: start one" in device.detail) == (False, True)
    (tmp_path / "nvidia-cuda-mps-control.pid").write_text("1")
    assert check_of("device", config).is_ok


@pytest.mark.parametrize(
    ("prefix", "is_told"), [("/opt/my env", True), ("/home/jörg/env", False), ("/opt/py(3)", False)]
)
def test_an_environment_in_a_folder_with_a_space_is_told_what_ray_does_there(prefix, is_told, monkeypatch):
    monkeypatch.setattr("sys.executable", f"{prefix}/bin/python")
    found = check_of("python and packages")
    assert ("they stay PENDING" in found.detail) == is_told
    assert found.is_ok


def test_too_few_open_files_are_off(monkeypatch):
    monkeypatch.setattr("resource.getrlimit", lambda number: (64, 64))
    found = check_of("limits")
    assert not found.is_ok
    assert TOO_LOW.partition(" for Ray")[0] in found.detail


def test_the_shared_memory_of_a_container_is_a_note_because_runs_work_there(monkeypatch):
    free = {"/dev/shm": 64 * 2**20}
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=free.get(str(folder), 2**40)))
    found = check_of("limits")
    assert found.is_ok
    assert "free in /dev/shm: 0.06 GiB. With so little, Ray keeps" in found.detail
    assert "--shm-size" in found.detail


@pytest.mark.parametrize(("size", "is_told"), [((300, 600), False), ((200, 401), True), ((500, 769), True)])
def test_the_check_of_source_says_to_cut_pictures_that_are_larger_or_longer_than_sam_sees(tmp_path, size, is_told):
    (tmp_path / "a.png").write_bytes(png(*size))
    (tmp_path / "b.png").write_bytes(b"no image")
    told = check_of("source", source=str(tmp_path)).detail
    assert (
        "1 of 1 images have a side above 768 pixels, or are longer than 2:1. SAM sees 192 pixels" in told
    ) == is_told
    assert ("pseudoris tile SOURCE DEST --size 192" in told) == is_told


@pytest.mark.parametrize(("engine", "side"), [("sam2", 1_024), ("ready", None), ("a_plug_in", None)])
def test_nothing_is_said_of_what_sam_sees_where_no_sam_runs(engine, side):
    tiny = load_config("tiny")
    config = tiny.model_copy(update={"masks": tiny.masks.model_copy(update={"engine": engine})})
    told = tile_sentence([(5_000, 5_000)], config)
    assert (f"SAM sees {side:,} pixels" in told) if side else told == ""
