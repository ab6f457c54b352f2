"""The proof kit for photographs: whole, on drawn scenes with a simulated judge; and its parts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from examples.photographs.__main__ import copy_sample, main, measure_gpu
from examples.photographs.results import write_results
from examples.step_log import StepLog, read_record, write_record
from pseudoris.audit.audit_folder import AuditFolder, VerdictLine
from pseudoris.primitives import rle
from pseudoris.primitives.rle import match_masks
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.ids import image_id
from pseudoris.synthworld.demo import TRUTH_FILE, write_demo
from pseudoris.synthworld.scene_truth import SceneTruth
from tests.builders.audits import add_answers, judge, small_audit
from tests.builders.sources import parquet_bytes, tar_bytes, write_files
from tests.examples.miniature import run_example
from tests.viewer.builders import picture

ROOT = Path(__file__).parents[2]
STEPS = ("weights", "sample", "annotate", "benchmark", "audit")
HOSTILE = "<img src=x onerror=alert(1)>"


def judge_as_truth(audit: AuditFolder, truth: Path, to: Path) -> dict[str, str]:
    """Write a verdict on every pair, of the rater that the file is named after; return them by pair."""
    scenes = SceneTruth.from_json(truth.read_bytes(), str(truth))
    verdicts = {}
    # The copies of `examples.photographs` are named by the ids of the scenes' own images.
    scene_of = {row["image_id"]: Path(row["key"]).stem for row in audit.images.select(["image_id", "key"]).to_pylist()}
    for row in audit.pairs.to_pylist():
        known, masks = scenes.of_image(scene_of[row["image_id"]]), audit.masks()[row["image_id"]]
        ious = rle.ious([mask["counts"] for mask in masks.values()], known.masks, known.size)
        found = {list(masks)[mask]: number for mask, number in match_masks(ious).items()}
        verdicts[row["pair_id"]] = _verdict(known, [found.get(mask) for mask in row["mask_ids"]], row["text"])
    lines = (VerdictLine(pair=pair, verdict=verdict) for pair, verdict in verdicts.items())
    add_answers(to.parent, audit.known, lines, rater=to.stem).rename(to)
    return verdicts


def _verdict(known, targets, text) -> str:
    if None in targets:
        return "not_an_object"
    # As in `pseudoris evaluate`, a text that cannot be read is wrong.
    meant = known.referents(text) or set()
    if meant == set(targets):
        return "right"
    return "several" if meant > set(targets) else "untrue"


@pytest.mark.ray
@pytest.mark.long
def test_the_kit_runs_whole_on_drawn_scenes_and_has_the_accuracy_once_they_are_judged(tmp_path):
    out = tmp_path / "out"
    given = [write_demo(tmp_path, num_scenes=12), out, "--preset", "tiny", "--images", 14, "--pairs", 20]
    # As `base-composed` does, it composes with weights for any captioner.
    given += ["--set", "composing={}", "--set", "filtering.fitted=null"]
    shown = run_example("photographs", *given)
    assert f"put the file that it downloads into {out / 'judged'}" in shown.stdout
    assert "Not judged yet" in (out / "photographs.html").read_text(encoding="utf-8")
    audit = AuditFolder.open(out / "audit")
    assert audit.draw.run.location == str(out / "composed")
    assert {row["source"] for row in audit.pairs.to_pylist()} == {"model", "composer"}
    verdicts = judge_as_truth(audit, tmp_path / TRUTH_FILE, out / "judged" / "simulated.jsonl")
    again = run_example("photographs", *given)
    assert again.stderr.count("finished before") == len((*STEPS, "compose"))
    assert "Next, judge" not in again.stdout
    found = json.loads((out / "photographs.json").read_text(encoding="utf-8"))
    assert found["judges"] == {"simulated": "simulated"}
    assert found["sample"] == {"listed": 17, "drawn": 14, "unread": {}}
    assert found["images_per_s"] > 0
    assert found["host_peak_bytes"] > 2**28
    assert found["gpu_benchmark"] == {"not_measured": "no GPU on this machine", "rows": []}
    accuracy, pairs = found["accuracy"], audit.pairs.to_pylist()
    kept = [verdicts[row["pair_id"]] for row in pairs if row["role"] == "drawn" and row["is_kept"]]
    assert accuracy["verdicts"] == len(kept)
    assert 0 < accuracy["low"] < accuracy["estimate"] < accuracy["high"] < 1
    page = (out / "photographs.html").read_text(encoding="utf-8")
    assert f"{100 * accuracy['estimate']:.1f} % <span>95 % interval" in page
    assert "simulated: no person looked" in page
    assert page.count("<figure") == 12
    refused = run_example("photographs", *given, "--set", "filtering.tau=1.5", code=2)
    assert "filtering.tau: " in refused.stderr


def write_given(out: Path, source: Path) -> None:
    method = load_config("tiny", None, ["shards.max_images=1", "placement.address=local"]).method()
    given = {"source": str(source), "preset": "tiny", "images": 8, "pairs": 24, "method": method}
    write_record(out, "given", given)


@pytest.fixture
def out(tmp_path):
    """All that the steps of a kit leave, on a small run with a hostile text; not judged yet."""
    out = tmp_path / "out"
    small_audit(out)
    (out / "run").rename(out / "annotation")
    log = StepLog(out / "steps")
    for name in STEPS:
        with log.measured(name):
            pass
    write_given(out, tmp_path / HOSTILE.replace("/", ""))
    write_record(out, "keys", {str(number): f"%D0%B6%2F{number}.png" for number in range(8)})
    write_record(out, "sample", {"listed": 9, "drawn": 9, "unread": {HOSTILE: "missing", "%FF.png": "missing"}})
    write_record(out, "machine", {"cores": 2, "memory_bytes": 2**34, "gpu_peak_bytes": None})
    write_record(out, "benchmark", {"not_measured": "no GPU on this machine", "rows": []})
    return out


def page_of(out: Path) -> str:
    return write_results(out, StepLog(out / "steps").records()).read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_page_tells_a_person_from_a_simulated_judge(out):
    judge(AuditFolder.open(out / "audit"), rater="ana")
    assert '<b dir="auto">ana</b> (a person).' in page_of(out)
    judge(AuditFolder.open(out / "audit"), rater="simulated-2")
    assert '<b dir="auto">simulated-2</b> (simulated: no person looked).' in page_of(out)
    judges = json.loads((out / "photographs.json").read_text(encoding="utf-8"))["judges"]
    assert judges == {"ana": "human", "simulated-2": "simulated"}


def test_what_files_hold_is_escaped_and_only_pictures_in_the_page_are_allowed(out):
    judge(AuditFolder.open(out / "audit"), rater="ana")
    page = page_of(out)
    assert "&lt;img src=x onerror=alert(1)&gt; left" in page
    assert not re.search(r"<img src=x", page)
    assert re.search(r'<p class="key" dir="auto">ж/\d\.png</p>', page)
    assert r"not readable: \xff.png" in page
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert "default-src &#39;none&#39;; img-src data:; " in policy


@pytest.mark.slow
def test_a_benchmark_that_fails_leaves_its_reason_and_no_figure(tmp_path, monkeypatch):
    # Here only: in the benchmark's own process there is none.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    measure_gpu(tmp_path, "base")
    found = read_record(tmp_path, "benchmark")
    assert "torch sees no GPU" in found["not_measured"]
    assert found["rows"] == []


def ran(*words: str | Path) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(main)
    ended = CliRunner().invoke(app, [*map(str, words)], env={"COLUMNS": "400"})
    return ended.exit_code, ended.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere", "out"), "does not exist"),
        (("images", "images"), "images holds files of something else. Name another OUT"),
        (("images", "images/out"), "OUT images/out is inside SOURCE, which would then list its copies"),
        (("images/a.png", "a.txt"), "OUT a.txt cannot be written (Not a directory). Name another folder"),
        (("images", "out", "--images", 0), "Invalid value for '--images'"),
        (("images", "out", "--set", "masks.no_such=1"), "masks.no_such: unknown key"),
    ],
    ids=["no SOURCE", "OUT of something else", "OUT in SOURCE", "OUT is a file", "no images", "no such setting"],
)
def test_what_cannot_begin_is_refused_and_leaves_nothing(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path, {"images/a.png": picture(), "a.txt": b""})
    code, told = ran(*words, "--preset", "tiny")
    assert (code, sorted(path.name for path in tmp_path.rglob("*"))) == (2, ["a.png", "a.txt", "images"])
    assert message in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("other",), "source: '"),
        (("images", "--images", 9), "images: 8 in OUT, 9 now"),
        (("images", "--pairs", 25), "pairs: 24 in OUT, 25 now"),
        (("images", "--preset", "paper"), "preset: 'tiny' in OUT, 'paper' now"),
        (("images", "--set", "filtering.tau=1.5"), "filtering.tau:"),
    ],
    ids=["source", "images", "pairs", "preset", "method"],
)
def test_other_settings_for_the_same_out_are_refused_by_name(tmp_path, words, message):
    out, source = tmp_path / "out", tmp_path / "images"
    write_given(out, source)
    code, told = ran(tmp_path / words[0], out, "--preset", "tiny", "--images", 8, "--pairs", 24, *words[1:])
    assert code == 2
    assert message in told
    assert not (out / "steps").exists()


def test_a_python_without_the_packages_is_told_which_one_to_use():
    bare = [sys.executable, "-S", "-E", "-m", "examples.photographs"]
    ended = subprocess.run(bare, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode
    assert ended.stderr.startswith("error: the Python ")
    assert "lacks psutil, pyarrow, pydantic, typer" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_damaged_record_is_refused_by_name(tmp_path):
    write_given(tmp_path / "out", tmp_path)
    (tmp_path / "out" / "records" / "given.json").write_bytes(b"")
    code, told = ran(tmp_path, tmp_path / "out", "--preset", "tiny")
    assert code == 2
    assert "given.json is damaged. Name another OUT, or delete " in told


def test_a_command_that_was_stopped_before_its_first_record_begins_again(tmp_path, monkeypatch):
    write_files(tmp_path, {"images/a.png": picture(), "out/records/given.unfinished": b""})
    # No step begins without Python's own interpreter.
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere"))
    ran(tmp_path / "images", tmp_path / "out", "--preset", "tiny", "--images", 8)
    assert read_record(tmp_path / "out", "given")["images"] == 8


@pytest.mark.slow
def test_verdicts_on_another_audit_are_refused_and_no_page_is_written(out, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_given(out, tmp_path / "images")
    shutil.move(out / "annotation", tmp_path / "run")
    other = tmp_path / "other"
    small_audit(other, seed=2)
    judge(AuditFolder.open(other / "audit"), rater="ana")
    (out / "judged").mkdir()
    shutil.copy(other / "audit" / "verdicts" / "ana.jsonl", out / "judged")
    code, _ = ran("images", out, "--preset", "tiny", "--images", 8, "--pairs", 24)
    assert code == 2
    assert "answers the draw" in capfd.readouterr().err
    assert not (out / "photographs.html").exists()


@pytest.mark.slow
def test_a_sample_of_tars_tables_and_files_becomes_files_named_by_image_id(tmp_path):
    out, data = tmp_path / "out", picture()
    tar, table = tar_bytes([("x/1.png", data), ("x/2.png", data)]), parquet_bytes({"image": [data]})
    source = write_files(tmp_path / "source", {"a b/c.png": data, "t.tar": tar, "t2.parquet": table})
    (source / "gone.png").symlink_to("nowhere.png")
    out.mkdir()
    copy_sample(str(source), out, load_config("tiny", None, ["shards.max_images=2"]), size=10)
    keys = {"a%20b/c.png": ".png", "t.tar!x/1.png": ".png", "t.tar!x/2.png": ".png", "t2.parquet#0": ".jpg"}
    assert read_record(out, "keys") == {image_id(key): key for key in keys}
    copies = {path.name: path.read_bytes() for path in (out / "sample").iterdir()}
    assert copies == {f"{image_id(key)}{ending}": data for key, ending in keys.items()}
    assert read_record(out, "sample") == {"listed": 5, "drawn": 5, "unread": {"gone.png": "missing"}}
