"""`pseudoris evaluate --model` as a user meets it: predictions, trainings and models without training on a truth."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pycocotools import mask as coco

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.ids import image_id, sha256_hex
from pseudoris.schemas.run_records import PlanEntry
from pseudoris.schemas.shard import ExpressionRecord, ShardImage
from pseudoris.synthworld.renderer import render
from pseudoris.training.evaluation.held_out import HeldOutExpressions, held_out_figures
from pseudoris.training.learning import open_fabric
from pseudoris.training.ppt.ppt_learner import load_ppt
from pseudoris.training.ppt.ppt_training import PptRequest, train_ppt
from tests.builders.command import invoke
from tests.builders.human import (
    HEIGHT,
    WIDTH,
    box_mask,
    image_row,
    object_row,
    reference,
    rle,
    write_images,
    write_refer,
)
from tests.builders.images import encode
from tests.builders.imports import import_small
from tests.builders.scene_runs import annotated, scene_run, scenes
from tests.store.builders import commit_images, make_identity, start_run
from tests.training.ppt.builders import small_config as small_ppt
from tests.training.ppt.builders import small_runs

FIRST, SECOND = (4, 3, 12, 9), (15, 10, 25, 20)


def evaluated(*words: object) -> str:
    return invoke("evaluate", *words, columns=80).output


def tree(*words: object) -> dict:
    return json.loads(evaluated(*words, "--json"))


@pytest.fixture(scope="module")
def truth(tmp_path_factory) -> str:
    """Three images: "thing" of split val, and "<b>other</b>" of testA, a box each."""
    root = tmp_path_factory.mktemp("truth")
    names = [f"{number}.png" for number in range(3)]
    objects = [object_row(2 * at + n, at, box) for at in range(3) for n, box in enumerate((FIRST, SECOND))]
    said = (("thing", "val"), ("<b>other</b>", "testA"))
    refs = [
        reference(2 * at + n, 2 * at + n, at, text, split=split)
        for at in range(3)
        for n, (text, split) in enumerate(said)
    ]
    refer = write_refer(root / "refcoco", [image_row(at, name) for at, name in enumerate(names)], objects, refs)
    images = write_images(root / "images", *names)
    import_small(refer, images, RunLocation.open(str(root / "truth")), splits=("val", "testA"))
    return str(root / "truth")


def predicted(image: int, text: str, box: tuple[int, ...] | None, **changes: object) -> dict:
    mask = None if box is None else rle(box_mask(box))
    return {"image": f"{image}.png", "text": text, "segmentation": mask, **changes}


def lines(path: Path, *rows: dict) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


# Of each question of the truth: what is predicted, and its split.
ANSWERS = [
    (0, "thing", (4, 3, 12, 9)),
    (1, "thing", (4, 3, 8, 9)),
    (2, "thing", (20, 3, 30, 9)),
    (0, "<b>other</b>", (15, 10, 25, 19)),
    (1, "<b>other</b>", (10, 10, 25, 20)),
    (2, "<b>other</b>", None),
]


def plain_figures(answers: list) -> dict[str, float]:
    """oIoU, mIoU and P@X as their definitions say, in numpy."""
    pairs = []
    for _, text, box in answers:
        guess = np.zeros((HEIGHT, WIDTH), bool) if box is None else box_mask(box)
        wanted = box_mask(FIRST if text == "thing" else SECOND)
        pairs.append(((guess & wanted).sum(), (guess | wanted).sum()))
    inter, union = np.array(pairs, float).T
    ious = inter / union
    precision = {f"p@{at}": (ious > at).mean() for at in (0.3, 0.5, 0.6, 0.7, 0.8, 0.9)}
    return {"oiou": inter.sum() / union.sum(), "miou": ious.mean(), **precision}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_predictions_have_the_figures_that_their_definitions_give_by_split(truth, tmp_path, suffix):
    rows = [predicted(*answer) for answer in ANSWERS]
    path = tmp_path / f"mine{suffix}"
    if suffix == ".jsonl":
        lines(path, *rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    found = tree("--model", path, "--truth", truth)
    asked = [(part["split"], part["num_expressions"]) for part in found["parts"]]
    assert asked == [("all", 6), ("testA", 3), ("val", 3)]
    for part, asked in zip(found["parts"], (ANSWERS, ANSWERS[3:], ANSWERS[:3]), strict=True):
        for name, value in plain_figures(asked).items():
            assert part[name]["value"] == pytest.approx(value), (part["split"], name)
            assert part[name]["low"] <= value <= part[name]["high"]
    assert found["parts"][0]["miou"]["low"] < found["parts"][0]["miou"]["high"], "images are resampled"
    assert found["notes"] == []
    val = tree("--model", path, "--truth", truth, "--split", "val")
    assert val["parts"][0]["num_expressions"] == 3
    assert val["parts"][0]["miou"]["value"] == pytest.approx(plain_figures(ANSWERS[:3])["miou"])
    assert val["notes"] == ["3 predictions are not asked for: they count nowhere."]


def test_the_table_fits_eighty_columns_and_the_report_shows_answers_escaped(truth, tmp_path):
    path = lines(tmp_path / "mine.jsonl", *(predicted(*answer) for answer in ANSWERS))
    shown = evaluated("--model", path, "--truth", truth, "--report", tmp_path / "report")
    table = [line for line in shown.splitlines() if "report" not in line and str(tmp_path) not in line]
    assert all(len(line) <= 80 for line in table)
    assert re.search(r"testA +3 ", shown)
    page = (tmp_path / "report" / "evaluation.html").read_text(encoding="utf-8")
    # One of an image: three of the worst, three of the best.
    assert page.count("data:image/jpeg;base64,") == 6
    assert "&lt;b&gt;other&lt;/b&gt;" in page
    assert "<b>other" not in page
    assert "IoU 0.00" in page.split("Best answers")[0].split("Worst answers")[1]
    assert "IoU 1.00" in page.split("Best answers")[1]
    assert json.loads((tmp_path / "report" / "evaluation.json").read_text()) == tree("--model", path, "--truth", truth)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            predicted(0, "thing", FIRST, segmentation={"size": [9, 9], "counts": "Q3"}),
            r"row 2 \('thing' of 0.png\): .*9, 9",
        ),
        (predicted(0, "thing", FIRST, segmentation={"size": [HEIGHT, WIDTH], "counts": "11"}), r"row 2 .*do not fill"),
        (predicted(0, "thing", FIRST, segmentation="none"), "row 2 .*neither RLE nor polygons"),
        (predicted(0, "", FIRST), r"row 2 has no text \(''\)"),
        ({"text": "thing", "segmentation": None}, r"row 2 has no image \('None'\)"),
        (predicted(1, "Thing.", SECOND), "row 2 predicts 'thing' of 1.png a second time"),
        ({"image": "0.png", "text": "thing", "mask": None}, "row 2 has no segmentation"),
        (predicted(0, "thing", FIRST, segmentation=False), r"row 2 \('thing' of 0.png\): the segmentation is False"),
        (predicted(0, "thing\ud800", FIRST), "row 2 has no text"),
    ],
)
def test_predictions_that_do_not_fit_are_refused_by_their_row(truth, tmp_path, row, message):
    path = lines(tmp_path / "bad.jsonl", predicted(1, "thing", FIRST), row)
    with pytest.raises(ConfigError, match=f"--model {re.escape(str(path))}: {message}"):
        evaluated("--model", path, "--truth", truth)


def test_other_files_models_and_splits_are_refused_by_name(truth, tmp_path):
    unasked = lines(tmp_path / "unasked.jsonl", predicted(7, "thing", FIRST))
    (tmp_path / "broken.jsonl").write_text("{", encoding="utf-8")
    pq.write_table(pa.table({"image": ["0.png"], "text": ["thing"]}), tmp_path / "table.parquet")
    torch.save({"module": {}, "settings": '{"learner": "lavt", "version": 2}'}, tmp_path / "lavt.pt")
    for model, options, message in (
        (unasked, (), r"none of its 1 predictions is asked for. The truth asks for 'thing' of 0.png"),
        (unasked, ("--split", "testB"), r"no expression of split 'testB'. It has testA \(3\), val \(3\)"),
        (unasked, ("--split", "val,testB"), r"no expression of split 'testB'. It has testA \(3\), val \(3\)"),
        (tmp_path / "broken.jsonl", (), "line 1 is not JSON"),
        (tmp_path / "table.parquet", (), r"has no column segmentation. Its columns are image, text"),
        ("clip:verb", (), r"clip:verb does not exist. Give the --out of"),
        (tmp_path / "lavt.pt", (), r"lavt.pt is a checkpoint of 'lavt', which is no model of"),
        ("clip:noun", (), "clip:noun needs a --preset: tiny for drawn scenes"),
        (tmp_path / "lavt.pt", ("--preset", "tiny"), "--preset and --set belong to clip:sentence"),
    ):
        with pytest.raises(ConfigError, match=message):
            evaluated("--model", model, "--truth", truth, *options)


def test_a_text_of_several_masks_asks_for_their_union_and_one_of_none_for_nothing(tmp_path):
    run = RunLocation.open(str(tmp_path / "run"))

    def grouped(image: ShardImage) -> ShardImage:
        ids = tuple(mask.mask_id for mask in image.masks[:2])
        texts = [("both", "group", ids), ("neither", "none", ())]
        rows = [ExpressionRecord(each, text, (), kind=kind, kept=True) for text, kind, each in texts]
        return replace(image, expressions=tuple(rows))

    scene_run(run, scenes(1), change=grouped)
    (key,) = scenes(1)
    masks = pq.read_table(next((tmp_path / "run").rglob("masks/*.parquet")))["segmentation"].to_pylist()[:2]
    union = coco.decode([{"size": each["size"], "counts": each["counts"].encode()} for each in masks]).any(2)
    rows = [{"image": key, "text": text, "segmentation": rle(union)} for text in ("both", "neither")]
    found = tree("--model", lines(tmp_path / "mine.jsonl", *rows), "--truth", run.root)
    # gIoU counts the expressions of no mask too, mIoU those of masks alone.
    gious = {part["kind"]: part["giou"]["value"] for part in found["parts"] if "giou" in part}
    mious = {part["kind"]: part["miou"]["value"] for part in found["parts"]}
    assert gious == {"all": 0.5, "none": 0.0}
    assert mious == {"all": 1.0, "group": 1.0, "none": None}
    assert (found["parts"][0]["no_target_accuracy"]["value"], found["parts"][0]["target_accuracy"]["value"]) == (0, 1)
    rows[1]["segmentation"] = None
    right = tree("--model", lines(tmp_path / "right.jsonl", *rows), "--truth", run.root)
    assert {part["kind"]: part["oiou"]["value"] for part in right["parts"]} == {"all": 1.0, "group": 1.0, "none": 1.0}


def test_a_missing_prediction_is_counted_as_the_worst_answer(truth, tmp_path):
    _, *others = ((at, text, box) for at in range(3) for text, box in (("thing", FIRST), ("<b>other</b>", SECOND)))
    path = lines(tmp_path / "missing.jsonl", *(predicted(*each) for each in others))
    missing = tree("--model", path, "--truth", truth)
    assert [(part["split"], part["num_missing"]) for part in missing["parts"]] == [("all", 1), ("testA", 0), ("val", 1)]
    areas = [int(box_mask(box).sum()) for *_, box in others]
    assert missing["parts"][0]["oiou"]["value"] == pytest.approx(sum(areas) / (sum(areas) + WIDTH * HEIGHT))
    assert missing["parts"][0]["miou"]["value"] == pytest.approx(5 / 6)
    (note,) = missing["notes"]
    worst = "Questions without a prediction: 1. Each counts as the worst answer, with IoU 0, and in oIoU"
    assert note.startswith(worst)
    shown = evaluated("--model", path, "--truth", truth)
    assert "6 expressions of 3 images, 1 of them without a prediction" in " ".join(shown.split())


UNKNOWN = "Not proven clean: no record says which {} the answers rest on. They may be those of the truth."


def machine_run(folder: Path, **header: object) -> str:
    """Write a run of one drawn scene that models made, its image embedded."""
    location, (key, scene) = RunLocation.open(str(folder)), next(iter(scenes(1).items()))
    data = encode(render(scene).image)
    entry = PlanEntry(0, 0, image_id(key), key, len(data), None, 5)
    begun = start_run(location, [entry], "shards.embed_images=true", **header)
    made = replace(annotated(entry, scene), data=data, sha256=sha256_hex(data))
    commit_images(location, begun, lambda _: made, embed_images=True)
    return location.root


def test_what_a_file_of_predictions_does_not_carry_is_unknown_and_said_first(truth, tmp_path):
    path = lines(tmp_path / "mine.jsonl", *(predicted(*answer) for answer in ANSWERS))
    shown = evaluated("--model", path, "--truth", truth, "--report", tmp_path / "report")
    found = json.loads((tmp_path / "report" / "evaluation.json").read_text(encoding="utf-8"))
    # No model made a human's annotation: images alone may be shared.
    assert found["circularity"] == [UNKNOWN.format("images")]
    assert next(iter(found)) == "circularity"
    assert " ".join(shown.split()).startswith(found["circularity"][0])
    page = (tmp_path / "report" / "evaluation.html").read_text(encoding="utf-8")
    assert page.index(found["circularity"][0]) < page.index('<dl class="facts">')
    run = machine_run(tmp_path / "run")
    row = {"image": "scene-000.png", "text": next(iter(HeldOutExpressions(run))).texts[0], "segmentation": None}
    assert tree("--model", lines(path, row), "--truth", run)["circularity"] == [UNKNOWN.format("images and models")]


@pytest.mark.slow
def test_the_models_that_made_the_truth_are_found_by_their_digests(tmp_path):
    tiny = load_config("tiny")
    sam, clip = tiny.masks.weights.sha256, tiny.filtering.weights.sha256
    quick = ("--set", "masks.points_per_side=4", "--set", "masks.crop_n_layers=0")

    def told(name: str, **header: object) -> list[str]:
        run = machine_run(tmp_path / name, **header)
        return tree("--model", "clip:sentence", "--preset", "tiny", *quick, "--truth", run)["circularity"]

    weights = {"propose": sam, "caption": "b" * 64, "filter": clip}
    (note,) = told("same", identity=make_identity(weights=weights))
    assert "models that made the truth answer here" in note
    assert "(propose, filter; equal sha256)" in note
    assert told("other", identity=make_identity(weights=dict.fromkeys(weights, "b" * 64))) == []
    # A digest that is over a prior's file too tells nothing of the SAM in it.
    over = ("masks.prior.kind=table", "masks.prior.path=x", "masks.weights.sha256=null")
    prior = load_config("tiny", None, [*over, "shards.embed_images=true"])
    mixed = make_identity(weights={"propose": "c" * 64, "caption": "b" * 64})
    assert told("prior", identity=mixed, config=prior) == [UNKNOWN.format("models")]
    human = make_identity(weights={}, method={"import": {}})
    assert told("human", origin="import", identity=human) == []


@pytest.mark.slow
@pytest.mark.long
def test_ppt_has_the_figures_of_its_own_validation_and_an_unfinished_training_is_noted(tmp_path):
    runs = small_runs(tmp_path / "runs")
    val = runs.d_sem[0]
    ppt = small_ppt(tmp_path, ["curriculum.epochs_factor=0.01"])
    train_ppt(PptRequest(ppt, runs, tmp_path / "ppt"), open_fabric(ppt.training))
    (part, *_) = tree("--model", tmp_path / "ppt", "--truth", val)["parts"]
    wanted = held_out_figures(load_ppt(tmp_path / "ppt").answer, HeldOutExpressions(val))
    for ours, key in {"oiou": "oiou", "miou": "miou", "p@0.5": "p50", "p@0.9": "p90"}.items():
        assert part[ours]["value"] == pytest.approx(wanted[key])
    (tmp_path / "ppt" / "summary.json").unlink(missing_ok=True)
    found = tree("--model", tmp_path / "ppt", "--truth", val)
    assert found["circularity"][0].startswith(
        "Circular: 4 of the 4 images of the truth were learnt from (equal sha256)"
    )
    a_round = next((tmp_path / "ppt").glob("*/checkpoint.pt"))
    assert tree("--model", a_round, "--truth", val)["circularity"] == found["circularity"]
    (tmp_path / "ppt" / "trained_on.json").unlink()
    assert tree("--model", tmp_path / "ppt", "--truth", val)["circularity"] == [UNKNOWN.format("images and models")]
    (note,) = found["notes"]
    assert note == f"The training in {tmp_path / 'ppt'} is not finished: this is its last checkpoint."
