"""RefCOCO's benchmark: whole, on a miniature REFER of real photographs; and its parts."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from examples.refcoco.__main__ import main
from examples.refcoco.refer_splits import find_splits
from examples.refcoco.results_table import MEANINGLESS, PUBLISHED, as_markdown
from examples.step_log import StepLog, StepRecord
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.planned_run import RunRequest, plan_or_continue
from pseudoris.store.sources import SourceItem
from pseudoris.training.exclusions import read_exclusions
from pseudoris.training.learning.checkpoint_folder import TrainingFolder
from pseudoris.training.student.student_config import load_student_config
from tests.builders.human import image_row, object_row, reference, write_refer
from tests.store.builders import make_identity

ROOT = Path(__file__).parents[2]
PHOTOS = ROOT.parent / "shared" / "assets" / "photos"
FIGURES = {"expressions": 3, "miou": 0.5, "oiou": 0.25} | {f"p{at}": 0.1 for at in (30, 50, 60, 70, 80, 90)}
# Real architectures at random weights; a coarse grid and short captions, so that minutes are enough.
SETTINGS = (
    "masks.weights={uri: 'random:0'}",
    "captions.weights={uri: 'random:0'}",
    "filtering.weights={uri: 'random:0'}",
    "masks.points_per_side=2",
    "masks.pred_iou_thresh=-10",
    "masks.stability_score_thresh=0",
    "masks.reduction={mask_nms_iou: 0.99, min_area: 0, max_area: 1, min_inside: 0, max_part_area: 1}",
    "captions.max_length=5",
    "captions.context_scales=[1.0]",
    "captions.has_masked_crop=false",
    "captions.sampling={top_k: [5], top_p: [0.5]}",
    "filtering.tau=0",
    "filtering.batch_size=8",
    "compute={device: cpu, threads: 2}",
    "placement={address: local, fused: {num_cpus: 1, num_gpus: 0}}",
)


def miniature(root: Path, num_images: int) -> tuple[Path, Path]:
    """Write refcoco and refcocog of photographs with their real instances; return REFER and train2014.

    Of three images one is in train, one in val and one in testA.
    """
    tree = json.loads((PHOTOS / "instances.json").read_text(encoding="utf-8"))
    names = {row["id"]: row["name"] for row in tree["categories"]}
    images = tree["images"][:num_images]
    train2014 = root / "train2014"
    train2014.mkdir(parents=True)
    for row in images:
        # As COCO names them, so that images are excluded by their id.
        name = f"COCO_train2014_{row['id']:012d}.jpg"
        shutil.copy(PHOTOS / row["file_name"], train2014 / name)
        row["file_name"] = name
    ids = {row["id"]: number for number, row in enumerate(images)}
    objects = [row for row in tree["annotations"] if row["image_id"] in ids and isinstance(row["segmentation"], list)]
    refs = [
        reference(
            number,
            row["id"],
            row["image_id"],
            f"the {names[row['category_id']]}",
            split=("train", "val", "testA")[ids[row["image_id"]] % 3],
        )
        for number, row in enumerate(objects)
    ]
    for dataset, split_by in (("refcoco", "unc"), ("refcocog", "umd")):
        folder = root / "refer" / dataset
        folder.mkdir(parents=True)
        (folder / "instances.json").write_text(
            json.dumps({**tree, "images": images, "annotations": objects}), encoding="utf-8"
        )
        (folder / f"refs({split_by}).p").write_bytes(pickle.dumps(refs, 2))
    return root / "refer", train2014


def benchmark(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "examples.refcoco", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"the test photographs are absent: {PHOTOS.name} beside the clone")
def test_the_whole_benchmark_runs_on_a_miniature_and_goes_on_where_it_stopped(tmp_path):
    refer, train2014 = miniature(tmp_path, 6)
    words = [word for each in SETTINGS for word in ("--set", each)]
    student = ["--student", "tiny", "--train-set", "training={num_steps: 12, num_warmup_steps: 1}"]
    whole = [refer, train2014, tmp_path / "out", "--preset", "base", *words, *student]
    # The training cannot begin: what stood before is kept.
    broken = benchmark(*whole, "--train-set", "training.no_such_key=1")
    assert broken.returncode == 2, broken.stderr
    shown = benchmark(*whole)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "annotate: finished before" in shown.stderr
    page = (tmp_path / "out" / "refcoco.md").read_text(encoding="utf-8")
    assert MEANINGLESS in page
    figures = json.loads((tmp_path / "out" / "refcoco.json").read_text(encoding="utf-8"))
    assert set(figures) == {f"{name}/{split}" for name in ("refcoco", "refcocog-umd") for split in ("val", "testA")}
    assert all(0 <= row["miou"] <= 1 and row["expressions"] > 0 for row in figures.values())
    header = json.loads((tmp_path / "out" / "annotation" / "_run.json").read_text(encoding="utf-8"))
    assert header["num_images"] == 2
    again = benchmark(*whole)
    assert again.returncode == 0
    assert again.stderr.count("finished before") == 6
    assert (tmp_path / "out" / "refcoco.md").read_text(encoding="utf-8") == page


def test_splits_are_named_as_the_published_tables_name_them(tmp_path):
    rows = [image_row(1, "a.jpg")]
    objects = [object_row(1, 1, (1, 1, 5, 5))]
    refs = [reference(1, 1, 1, "a", split="val"), reference(2, 1, 1, "b", split="train")]
    # As REFER's archives come.
    for dataset, files in {"refcoco": ["google", "unc"], "refcoco+": ["unc"], "refcocog": ["google", "umd"]}.items():
        write_refer(tmp_path / dataset, rows, objects, refs)
        (tmp_path / dataset / "refs(unc).p").unlink()
        for split_by in files:
            (tmp_path / dataset / f"refs({split_by}).p").write_bytes(pickle.dumps(refs, 2))
    names = {each.name for each in find_splits(tmp_path)}
    assert names == {
        f"{name}/val" for name in ("refcoco-google", "refcoco", "refcoco+", "refcocog-google", "refcocog-umd")
    }
    published = {split for row in json.loads(PUBLISHED.read_text(encoding="utf-8"))["rows"] for split in row["splits"]}
    assert {split for split in published if split.endswith("/val")} <= names
    with pytest.raises(ConfigError, match=r"no split to evaluate below .*empty: give the folder"):
        find_splits(tmp_path / "empty")


RANDOM = "masks.weights={uri: 'random:0'}"


@pytest.fixture
def finished(tmp_path):
    """The arguments of a benchmark all of whose steps are finished, as they were given before."""
    rows = [image_row(1, "a.jpg"), image_row(2, "b.jpg")]
    refs = [reference(1, 1, 1, "a", split="train"), reference(2, 2, 2, "b", split="val")]
    write_refer(tmp_path / "refer" / "refcoco", rows, [object_row(1, 1), object_row(2, 2)], refs)
    out = tmp_path / "out"
    config = load_config("base", None, [RANDOM])
    request = RunRequest(
        "annotate",
        "images/",
        make_identity(method=config.method()),
        config,
        exclusions=read_exclusions([str(tmp_path / "refer")]),
    )
    items = [SourceItem(key=name, size_bytes=1) for name in ("a.jpg", "b.jpg")]
    plan_or_continue(RunLocation.open(str(out / "annotation")), request, lambda: items)
    TrainingFolder(out / "segmenter").begin({"config": load_student_config("tiny").decisive()})
    (out / "results" / "segmenter").mkdir(parents=True)
    (out / "results" / "segmenter" / "refcoco-val.json").write_text(json.dumps(FIGURES))
    log = StepLog(out / "steps")
    for name in ("annotate", "train segmenter", "evaluate segmenter refcoco/val"):
        with log.measured(name):
            pass
    given = {"preset": "base", "settings": [RANDOM], "kind": "segmenter", "student": "tiny", "training": []}
    return {"refer": tmp_path / "refer", "images": tmp_path / "refer", "out": out, **given}


def test_finished_steps_of_the_same_settings_make_the_page_with_its_label(finished, capsys):
    # Where it computes decides nothing.
    main(**{**finished, "settings": [RANDOM, "placement.address=auto"]})
    assert capsys.readouterr().err.count("finished before") == 3
    assert MEANINGLESS in (finished["out"] / "refcoco.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"preset": "paper", "settings": []}, "masks.weights.uri: 'random:0' in the run, 'checkpoints/sam_vit_h"),
        ({"settings": [RANDOM, "filtering.tau=0.5"]}, "filtering.tau:"),
        ({"student": "vit-b-16"}, "began with other settings"),
        ({"training": ["training.seed=5"]}, "training.seed"),
    ],
)
def test_finished_steps_of_other_settings_are_refused_by_name(finished, capsys, given, message):
    with pytest.raises(typer.Exit):
        main(**{**finished, **given})
    told = capsys.readouterr().err
    assert f"{finished['out']} holds steps that were made otherwise. Give what made them, or another OUT" in told
    assert message in told
    assert not (finished["out"] / "refcoco.md").exists()


def test_a_dataset_that_came_later_is_refused_if_its_images_were_annotated(finished, capsys):
    refs = [reference(1, 1, 1, "a", split="test")]
    write_refer(finished["refer"] / "refcoco+", [image_row(1, "a.jpg")], [object_row(1, 1)], refs)
    with pytest.raises(typer.Exit):
        main(**finished)
    assert "does not exclude 1 of the images that" in capsys.readouterr().err


@pytest.mark.parametrize(("folder", "message"), [("annotation", "there is no run at"), ("segmenter", "no training in")])
def test_a_finished_step_without_its_folder_is_refused(finished, capsys, folder, message):
    shutil.rmtree(finished["out"] / folder)
    with pytest.raises(typer.Exit):
        main(**finished)
    assert message in capsys.readouterr().err


def test_the_table_has_published_figures_beside_ours_and_hours_below():
    page = as_markdown({"refcoco/val": FIGURES, "own/val": FIGURES}, [StepRecord("annotate", 7200, 5 * 10**9, True)])
    assert "| refcoco/val | 3 | 25.00 | 50.00 | 10.00 | 10.00 | 10.00 | 10.00 | 10.00 | 46.76 | – |" in page
    assert "| own/val | 3 | 25.00 | 50.00 | 10.00 | 10.00 | 10.00 | 10.00 | 10.00 | – | – |" in page
    assert "| annotate | 2.00 | 5.0 |" in page
    splits = {split for row in json.loads(PUBLISHED.read_text(encoding="utf-8"))["rows"] for split in row["splits"]}
    assert {"refcoco/val", "refcoco+/testB", "refcocog-google/val"} <= splits
