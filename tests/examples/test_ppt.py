"""The tables and the figure of PPT: each whole, on drawn scenes dressed as REFER; and their parts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import typer
from PIL import Image

from evidence.recipes.object_centric import write_object_centric
from examples.ppt.__main__ import main
from examples.ppt.paper_rows import PAPER
from examples.ppt.query_points import all_queries
from examples.ppt.steps import TABLES, Inputs, datasets, plan
from pseudoris.training.evaluation.held_out import HeldOutExpressions
from pseudoris.training.ppt.ppt_config import load_ppt_config
from pseudoris.training.ppt.ppt_learner import load_ppt
from tests.examples.miniature import assert_in_order, page_rows, run_example, small_refer, write_miniature

NUM_OBJECTS = 8
QUICK = ("--preset", "tiny", "--sample", str(NUM_OBJECTS), "--train-set", "curriculum.epochs_factor=0.001")


def write_inputs(root: Path, *, num_train: int, num_held_out: int) -> tuple[Path, Path, Path, Path]:
    """Return REFER, IMAGES, OBJECTS and OUT."""
    made = write_miniature(root, num_train=num_train, num_held_out=num_held_out)
    objects = write_object_centric(root / "objects", num_images=NUM_OBJECTS + 2)
    return made.refer, made.train2014, objects, root / "out"


@pytest.mark.long
def test_the_figure_is_made_of_raw_data_and_shows_every_query(tmp_path, capsys):
    places = write_inputs(tmp_path, num_train=2, num_held_out=2)
    given = {"preset": "tiny", "sample": NUM_OBJECTS, "count": 2}
    # The training cannot begin: what stood before is kept.
    model = places[-1] / "models" / "refcoco" / "full"
    model.parent.mkdir(parents=True)
    model.write_text("no folder")
    with pytest.raises(typer.Exit):
        main("figure", *places, **given, training=["curriculum.epochs_factor=0.001"])
    model.unlink()
    capsys.readouterr()
    main("figure", *places, **given, training=["curriculum.epochs_factor=0.001"])
    assert capsys.readouterr().err.count("finished before") == 5
    out = places[-1]
    told = page_rows((out / "figure.md").read_text(encoding="utf-8"))
    queries = load_ppt_config("tiny").generator.num_queries
    assert [line[1] for line in told] == [str(queries)] * 2
    assert all(float(line[4]) >= float(line[3]) for line in told)
    with Image.open(out / "figure.png") as picture:
        assert picture.width == (1 + queries) * 328
    _queries_are_the_models_own(out)
    with pytest.raises(typer.Exit):
        main("figure", *places, **{**given, "sample": NUM_OBJECTS - 1})
    assert "the step 'objects' is finished, with 8; now it has 7." in capsys.readouterr().err


def _queries_are_the_models_own(out: Path) -> None:
    """The first of all queries is what the model answers; the others are less sure."""
    questions = HeldOutExpressions(str(out / "truth" / "refcoco"), splits=["val"])
    learner = load_ppt(out / "models" / "refcoco" / "full")
    question = questions.question(questions.images[0])
    found = all_queries(learner, question, question.texts[0])
    answer = learner.predict(question.image_key, question.image, [question.texts[0]])
    for name in ("points_xy", "is_positive", "confidences"):
        assert torch.equal(getattr(found, name)[:1], getattr(answer, name)), name
    assert torch.equal(found.logits[:1] > 0, answer.logits > 0)
    assert found.confidences.tolist() == sorted(found.confidences.tolist(), reverse=True)


@pytest.mark.long
def test_both_tables_run_whole_on_one_miniature(tmp_path):
    places = write_inputs(tmp_path, num_train=3, num_held_out=1)
    out = places[-1]
    for command in ("tables", "ablation"):
        run_example("ppt", command, *places, *QUICK)
        found = page_rows((out / f"{command}.md").read_text(encoding="utf-8"))
        measured = [line for line in found if line[2] != "–"]
        asked = [f"{each.name}/{split}" for each in datasets(Inputs(*places), command) for split in each.asked]
        assert [line[:2] for line in measured] == [
            [row.title, split] for row in TABLES[command].values() for split in asked
        ]
        assert all(0 <= float(cell.split()[0]) <= 100 for line in measured for cell in line[3:8])
        assert all(cell.endswith("]") for line in measured for cell in line[3:8]), "each has its interval"
        last = 9 if command == "tables" else 8
        beside = [line[last:] for line in measured if line[1] == "refcoco/val"]
        if command == "ablation":
            assert [float(line[0]) for line in beside] == [miou for _, miou in PAPER.values()]
            assert found == measured
        else:
            # What is not measured is published, in lines of its own, before ours as in the paper.
            assert beside[0] == ["46.76", "61.16", "50.19", "36.22", "20.70"]
            assert ["TRIS", "refcoco/testA", *["–"] * 7, "32.43", *["–"] * 4] in found
            assert found[-len(measured) :] == measured
            parameters = {line[0]: line[8] for line in measured}
            assert [*parameters.values()] == ["0.55", "0.00", "0.00", "0.00"]
    again = run_example("ppt", command, *places, *QUICK)
    # Both tables share the data, RefCOCO's training and CLIP + SAM is asked once for each table.
    assert again.stderr.count("finished before") == len(again.stderr.splitlines()) == 6 + 5 + 9


@pytest.mark.parametrize("command", TABLES)
def test_a_plan_reads_what_it_wrote_before_and_has_every_step_once(tmp_path, command):
    refer = small_refer(tmp_path / "refer", "train", "val", "testA")
    inputs = Inputs(refer, tmp_path / "images", tmp_path / "objects", tmp_path / "out")
    chosen = datasets(inputs, command)
    names = ["refcoco", "refcoco+", "refcocog-google", "refcocog-umd"] if command == "tables" else ["refcoco"]
    assert [each.name for each in chosen] == names
    steps = plan(inputs, command, list(TABLES[command]), chosen)
    assert_in_order(steps, inputs.out)


@pytest.mark.parametrize(
    ("command", "given", "message"),
    [
        (
            "tables",
            {"row": ["5"]},
            "--row '5' is not in the table tables. Its rows are ppt, clip-sentence, clip-noun, ",
        ),
        ("figure", {"training": ["generator.nope=1"]}, "train full refcoco: the configuration is not valid:"),
        (
            "ablation",
            {"settings": ["pairs.nope=1"]},
            "objects: the configuration is not valid:\n  pairs.nope: unknown key",
        ),
        ("tables", {"preset": "nope"}, "objects: PPT's recipes have no preset 'nope'. The presets are "),
    ],
)
def test_a_users_mistake_is_refused_before_a_step(tmp_path, capsys, command, given, message):
    refer = small_refer(tmp_path / "refer", "train", "val")
    with pytest.raises(typer.Exit) as ended:
        main(command, refer, tmp_path, tmp_path, tmp_path / "out", **given)
    assert ended.value.exit_code == 2
    assert f"error: {message}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
