"""The tables of Pseudo-RIS: each whole, on drawn scenes dressed as REFER and PhraseCut; and their parts."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import typer

from evidence.experiments.segmenter.segmenter_config import load_segmenter_config
from examples.pseudo_ris.__main__ import main
from examples.pseudo_ris.inputs import write_phrasecut, write_share
from examples.pseudo_ris.steps import ANNOTATIONS, LEARNERS, TABLES, Benchmark, plan, truths
from examples.refer_splits import find_datasets
from examples.step_log import StepRecord
from pseudoris.interchange.untrusted_pickle import read_refs
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config_layers import load_config
from pseudoris.training.chooser.chooser_config import load_chooser_config
from tests.examples.miniature import (
    SEEN,
    Miniature,
    assert_in_order,
    page_rows,
    run_example,
    small_refer,
    write_miniature,
)

QUICK = ("--preset", "tiny", "--student", "tiny", "--set", "placement.address=local")
# Of tables of many rows one of each kind: a row takes a minute.
ROWS = {
    "semi": ("main", "semi-0.05", "human-0.05", "human-1"),
    "ablations": ("beam", "nucleus", "uniqueness", "tau-1.2", "rules"),
}
TRAINING = ("--train-set", "training={num_steps: 12, num_warmup_steps: 1}")


def pseudo_ris(table: str, made: Miniature, *words: str) -> subprocess.CompletedProcess[str]:
    return run_example("pseudo_ris", table, made.refer, made.train2014, made.refer.parent / "out", *QUICK, *words)


@pytest.mark.ray
@pytest.mark.long
def test_a_model_of_one_annotation_is_asked_phrasecut(tmp_path):
    made = write_miniature(tmp_path, num_train=4, num_held_out=2)
    given = (*TRAINING, "--phrasecut", str(made.phrasecut), "--row", "main")
    pseudo_ris("phrasecut", made, *given)
    page = (tmp_path / "out" / "phrasecut.md").read_text(encoding="utf-8")
    asked = {line[1]: int(line[2]) for line in page_rows(page)}
    tasks = json.loads((made.phrasecut / "refer_test.json").read_text())
    assert asked["phrasecut/all"] == len(tasks)
    assert asked["phrasecut/unseen"] == sum(task["phrase"] not in SEEN for task in tasks) > 0
    assert asked["phrasecut/all, several instances"] == sum(len(task["Polygons"]) > 1 for task in tasks) > 0
    assert all(0 <= float(line[4].split()[0]) <= 100 and line[-1] == "–" for line in page_rows(page))
    header = json.loads((tmp_path / "out" / "runs" / "main" / "_run.json").read_text(encoding="utf-8"))
    assert (header["num_images"], header["exclusions"]["rules"][0]["kind"]) == (4, "only")


@pytest.mark.ray
@pytest.mark.long
def test_every_table_runs_whole_on_one_miniature(tmp_path):
    made = write_miniature(tmp_path, num_train=6, num_held_out=2)
    given = (*TRAINING, "--phrasecut", str(made.phrasecut))
    for table in TABLES:
        chosen = ROWS.get(table, TABLES[table].learners)
        pseudo_ris(table, made, *given, *(word for name in ROWS.get(table, ()) for word in ("--row", name)))
        page = (tmp_path / "out" / f"{table}.md").read_text(encoding="utf-8")
        titles = {line[0] for line in page_rows(page)}
        assert titles == {LEARNERS[name].title for name in chosen}
        needed = {LEARNERS[name].title for name in TABLES[table].learners if LEARNERS[name].needs}
        assert all(f"{title}: not run, needs " in page for title in needed)
        if table == "main":
            assert "info['refcoco+']['train'] = " in page
            found = find_datasets(made.refer)
            assert {line[1] for line in page_rows(page)} == {
                f"{each.name}/{at}" for each in found for at in each.splits
            }
            # A dataset is enough for the rest.
            shutil.rmtree(made.refer / "refcoco")
            shutil.rmtree(made.refer / "refcocog")
    again = pseudo_ris(table, made, *given, *(word for name in chosen for word in ("--row", name)))
    assert again.stderr.count("finished before") == len(again.stderr.splitlines())
    assert (tmp_path / "out" / f"{table}.md").read_text(encoding="utf-8") == page


@pytest.mark.parametrize("table", TABLES)
def test_a_plan_trains_on_runs_that_it_makes_before_and_has_every_step_once(tmp_path, table):
    refer = small_refer(tmp_path / "refer", "train", "val", "testA")
    benchmark = Benchmark(refer, tmp_path, tmp_path / "out", phrasecut=_phrasecut(tmp_path))
    names = [name for name in TABLES[table].learners if not LEARNERS[name].needs]
    steps = plan(benchmark, table, names, truths(benchmark, table))
    assert_in_order(steps, benchmark.out / "runs", benchmark.out / "models")
    annotate = steps[0].words
    assert annotate[annotate.index("--only") + 1] == str(refer / "refcoco+")
    assert "--exclude" not in annotate


def test_a_chooser_proposes_masks_of_images_that_no_table_of_instances_names(tmp_path):
    refer = small_refer(tmp_path / "refer", "train", "val")
    settings = ("masks.prior={kind: table, path: instances.parquet}", "masks.points_per_side=8")
    benchmark = Benchmark(refer, tmp_path, tmp_path / "out", "tiny", settings, student="tiny")
    steps = {step.name: step.words for step in plan(benchmark, "main", ["chooser"], truths(benchmark, "main"))}
    words = [word.removeprefix("--set=") for word in steps["train chooser"] if word.startswith("--set=")]
    masks = load_chooser_config("tiny", None, words).candidates.run_config().masks
    assert (masks.prior.kind, masks.points_per_side) == ("none", 8)
    annotated = [word.removeprefix("--set=") for word in steps["annotate main"] if word.startswith("--set=")]
    assert load_config("tiny", None, annotated).masks.prior.kind == "table"


@pytest.mark.parametrize("name", LEARNERS)
def test_the_settings_of_every_segmenter_exist(name):
    load_segmenter_config("tiny", None, LEARNERS[name].training)
    assert LEARNERS[name].annotation in (None, *ANNOTATIONS)


@pytest.mark.parametrize(
    ("table", "given", "message"),
    [
        ("main", {"row": ["beam"]}, "--row 'beam' is not in the table main. Its rows are main, chooser."),
        ("phrasecut", {}, "The table phrasecut needs --phrasecut"),
        ("ablations", {"row": ["noun-phrases"]}, "The row noun-phrases (texts: noun phrases alone) cannot be run: it "),
        ("main", {"student": "nope"}, "train main: The segmenter has no preset 'nope'. The presets are tiny, vit-b-16"),
        ("main", {"training": ["training.nope=1"]}, "train main: the configuration is not valid:\n  training.nope: "),
        ("main", {"row": ["chooser"], "training": ["targets.nope=1"]}, "train chooser: the configuration is not valid"),
        ("main", {"row": ["chooser"], "training": ["candidates.preset=nope"]}, "train chooser: unknown preset 'nope'"),
        ("main", {"preset": "nope"}, "annotate main: unknown preset 'nope'"),
        ("main", {"settings": ["captioner-x:captions.seed=1"]}, "annotate main: the configuration is not valid:"),
    ],
)
def test_a_users_mistake_is_refused_before_a_step(tmp_path, capsys, table, given, message):
    refer = small_refer(tmp_path / "refer", "train", "val")
    assert _refusal(capsys, table, refer, tmp_path / "out", **given).startswith(f"error: {message}")
    assert not (tmp_path / "out").exists()


def test_a_share_without_its_instances_is_refused_by_name(tmp_path, capsys):
    refer = small_refer(tmp_path / "refer", "train", "val")
    (refer / "refcoco+" / "instances.json").unlink()
    told = _refusal(capsys, "semi", refer, tmp_path / "out")
    assert f"'{refer / 'refcoco+' / 'instances.json'}'. Put REFER's instances.json there." in told


@pytest.mark.parametrize(
    ("record", "words", "result", "named"),
    [
        ("{", None, None, "steps/evaluate main refcoco val.json"),
        ('{"nope": 1}', None, None, "steps/evaluate main refcoco val.json"),
        ("finished", None, None, "words/evaluate main refcoco val.json"),
        ("finished", "{", None, "words/evaluate main refcoco val.json"),
        ("finished", "[]", None, "results/main/refcoco-val.json"),
        ("finished", "[]", "{", "results/main/refcoco-val.json"),
    ],
)
def test_a_damaged_file_of_a_step_is_refused_with_what_to_delete(tmp_path, capsys, record, words, result, named):
    refer, out, step = small_refer(tmp_path / "refer", "train", "val"), tmp_path / "out", "evaluate main refcoco val"
    record = json.dumps(asdict(StepRecord(step, is_finished=True))) if record == "finished" else record
    made = {f"steps/{step}": record, f"words/{step}": words, "results/main/refcoco-val": result}
    for name, text in made.items():
        (out / name).parent.mkdir(parents=True)
        if text is not None:
            (out / f"{name}.json").write_text(text)
    told = _refusal(capsys, "main", refer, out, row=["main"])
    assert told.startswith(f"error: {out / named} cannot be read: ")
    assert told.endswith(f". Delete {out}/steps/{step}.json, and the step runs again.\n")


def test_settings_of_one_annotation_are_its_own_and_win(tmp_path):
    refer = small_refer(tmp_path / "refer", "train", "val")
    settings = ("masks.prior.kind=none", "captioner-b:captions.weights.uri=/my/b32.pt", "rules:masks.points_per_side=8")
    benchmark = Benchmark(refer, tmp_path, tmp_path / "out", "tiny", settings, "tiny")
    made = plan(benchmark, "ablations", ["captioner-b", "chooser"], truths(benchmark, "ablations"))
    steps = {step.name: [word.removeprefix("--set=") for word in step.words if "--set=" in word] for step in made}
    assert steps["annotate main"] == ["masks.prior.kind=none"]
    assert load_config("tiny", None, steps["annotate captioner-b"]).captions.weights.uri == "/my/b32.pt"
    masks = load_chooser_config("tiny", None, steps["train chooser"]).candidates.run_config().masks
    assert (masks.prior.kind, masks.points_per_side) == ("none", 8)


def _refusal(capsys: pytest.CaptureFixture[str], table: str, refer: Path, out: Path, **given: Any) -> str:
    with pytest.raises(typer.Exit) as ended:
        main(table, refer, refer.parent, out, **given)
    assert ended.value.exit_code == 2
    return capsys.readouterr().err


def test_a_share_has_a_reference_and_lies_in_a_larger_one(tmp_path):
    refer = small_refer(tmp_path / "refer", *["train"] * 10, "val")
    made = [write_share(refer / "refcoco+", share, tmp_path / f"{share}") for share in (0.01, 0.5, 1.0)]
    shares = [{ref["ref_id"] for ref in read_refs(each / "refs(unc).p")} for each in made]
    assert [len(found) for found in shares] == [1, 5, 10]
    assert shares[0] < shares[1] < shares[2] == set(range(10))


def test_a_changed_source_is_another_input_so_that_its_finished_import_is_refused(tmp_path):
    refer, out = small_refer(tmp_path / "refer", "train", "train", "val"), tmp_path / "out"
    phrasecut = _phrasecut(tmp_path)

    def write() -> tuple[Path, Path]:
        return write_share(refer / "refcoco+", 1.0, out / "human"), write_phrasecut(phrasecut, refer, out / "phrasecut")

    before = write()
    assert before == write()
    small_refer(refer, "train", "val")
    (phrasecut / "refer_test.json").write_text("[]")
    assert not {*before} & {*write()}


def test_phrases_are_unseen_whose_category_no_instances_file_names(tmp_path):
    refer = small_refer(tmp_path / "refer", "train")
    folder = write_phrasecut(_phrasecut(tmp_path), refer, tmp_path / "out")
    found = {name: json.loads((folder / f"refer_{name}.json").read_text()) for name in ("seen", "unseen")}
    assert {name: [task["task_id"] for task in tasks] for name, tasks in found.items()} == {
        "seen": ["1"],
        "unseen": ["2"],
    }
    (tmp_path / "other").mkdir()
    with pytest.raises(ConfigError, match="PhraseCut cannot be split by category: FileNotFoundError"):
        write_phrasecut(tmp_path / "other", refer, tmp_path / "again")


def _phrasecut(root: Path) -> Path:
    """Write PhraseCut of two tasks; `object` is the category of REFER's document."""
    folder = root / "VGPhraseCut_v0"
    folder.mkdir()
    tasks = [{"task_id": f"{at}", "phrase_structure": {"name": name}} for at, name in ((1, "object"), (2, "sky"))]
    (folder / "refer_test.json").write_text(json.dumps(tasks))
    return folder
