"""The experiments with PPT: the ablation's jobs, rows, trials, page and command, and the data that it is trained on."""

import json
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import typer
from typer.testing import CliRunner

from evidence.experiments.ppt import ablation_jobs
from evidence.experiments.ppt.__main__ import main
from evidence.experiments.ppt.ablation_jobs import (
    config_of,
    jobs_of,
    mean_select,
    measure,
    select_figures,
    student_config,
)
from evidence.experiments.ppt.ablation_rows import BESIDE, QUICK, TRAININGS, WHOLE, AblationRuns
from evidence.experiments.ppt.ablation_table import BEGIN, END, TRIALS, as_json, as_markdown, trials
from evidence.experiments.ppt_data import __main__ as command
from evidence.experiments.quality.markdown_cells import put_into
from evidence.experiments.segmenter.segmenter_config import load_segmenter_config
from examples.ppt.paper_rows import PAPER
from pseudoris.primitives.errors import ConfigError
from pseudoris.training.ppt.curriculum import plan_rounds, write_chosen
from tests.interchange.dataset.builders import build_run
from tests.training.ppt.builders import UNDECIDED

DOCS = Path(__file__).parents[3] / "docs"
RUNS = AblationRuns("sem", "ref", "h", "truth", "val", "pseudo")
PRECISION = {"p30": 0.7, "p50": 0.6, "p60": 0.5, "p70": 0.4, "p80": 0.3, "p90": 0.2}


def asked(miou: float) -> dict[str, object]:
    """Return what a row of ten scenes with two expressions each records."""
    return {"miou": miou, "oiou": 0.6, **PRECISION, "iou_sums": [2 * miou] * 10, "num_expressions": [2] * 10}


def test_a_job_is_measured_until_it_has_a_record_and_then_not_again_whoever_asks(tmp_path, monkeypatch) -> None:
    floor = jobs_of(QUICK, tmp_path / "trainings", tmp_path / "records", is_pseudo=False)[-1]
    with pytest.raises(ValueError, match=r"floor has no record at .*, and no runs to be measured on"):
        measure(floor)
    monkeypatch.setattr(ablation_jobs, "floor_figures", Mock(side_effect=[OSError("no space"), {"figures": {}}]))
    with pytest.raises(OSError, match="no space"):
        measure(replace(floor, runs=RUNS))
    assert not floor.is_finished
    done = measure(replace(floor, runs=RUNS))
    assert floor.is_finished
    assert measure(floor) == done
    assert (done["name"], done["seed"]) == ("floor", 0)


def test_every_row_of_the_papers_table_is_measured_by_one_training_or_the_floor() -> None:
    measured = [row for training in TRAININGS for row in training.phases.values()] + ["1", "student-pseudo"]
    assert sorted(measured) == sorted([*PAPER, *BESIDE])


def test_the_rows_differ_in_words_and_phases_as_the_paper_says() -> None:
    by_row = {row: training for training in TRAININGS for row in training.phases.values()}
    assert config_of(by_row["order"], WHOLE, 0).objective.point_correspondence == "order"
    assert config_of(by_row["no-anchors"], WHOLE, 0).generator.anchor_gain == 0
    assert config_of(by_row["regression"], WHOLE, 0).generator.point_head == "regression"
    pairs = {"d_sem": 10, "d_ref": 10, "h_sem": 10, "h_ref": 10}
    without = plan_rounds(config_of(by_row["6"], WHOLE, 0).curriculum, pairs, len)
    assert len(without) == 1
    assert not without[0].is_selecting
    with_all = plan_rounds(config_of(by_row["5"], WHOLE, 0).curriculum, pairs, len)
    assert with_all[-1].phase == "refinement"
    assert with_all[-1].sources == ("h_sem", "h_ref")
    kept = plan_rounds(config_of(by_row["kept-composed"], WHOLE, 0).curriculum, pairs, len)
    assert [each.name for each in kept] == [each.name for each in with_all]
    assert kept[-1].sources == ("d_ref", "h_sem", "h_ref")
    assert kept[:-5] == with_all[:-5]


def test_a_step_with_a_verdict_has_six_seeds_the_other_rows_of_the_paper_three_and_the_rest_one(tmp_path) -> None:
    jobs = jobs_of(WHOLE, tmp_path, tmp_path, is_pseudo=True)
    papers = ("plain", "no-curriculum", "no-augmented", "no-free", "no-objects")
    assert {job.name: sum(other.name == job.name for other in jobs) for job in jobs} == {
        "full": 6,
        **dict.fromkeys((*papers, "kept-composed"), 3),
        **dict.fromkeys(("order", "no-anchors", "regression", "pseudo", "with-pseudo"), 1),
        **dict.fromkeys(("student-pseudo", "floor"), 1),
    }
    assert len({job.record for job in jobs}) == len({job.folder for job in jobs}) == len(jobs)


@pytest.mark.parametrize("changed", ["objects", "val_scenes", "epochs_factor"])
def test_figures_of_other_sizes_are_never_taken_for_these(tmp_path, changed) -> None:
    others = replace(WHOLE, **{changed: 2 * getattr(WHOLE, changed)})
    records = [{job.record for job in jobs_of(sizes, tmp_path, tmp_path, is_pseudo=True)} for sizes in (WHOLE, others)]
    assert not records[0] & records[1]


def test_the_student_beside_it_is_the_one_that_is_shipped_for_as_long_as_is_said() -> None:
    shipped, used = load_segmenter_config("tiny", None, ["data.draw=distinct"]), student_config(WHOLE)
    # A tenth warms up, where that is less than in a training as shipped.
    length = {"num_steps": WHOLE.num_student_steps, "num_warmup_steps": WHOLE.num_student_steps // 10}
    assert used == shipped.model_copy(update={"training": shipped.training.model_copy(update=length)})


def test_the_result_has_means_and_intervals_and_stands_in_the_page_between_its_marks(tmp_path) -> None:
    done = [
        {"seed": seed, "figures": {"5": asked(miou)}, "cpu_s": 2.0, "steps": 10}
        for seed, miou in enumerate((0.4, 0.5, 0.6))
    ]
    done += [{"seed": 0, "figures": {"1": asked(0.3)}, "cpu_s": 1.0, "steps": 0}]
    done[0]["select"] = {
        "pairs": 1083,
        "reachable": 0.853,
        "rounds": [{"name": "03-ris_joint", "decided": 0.9, "right": 0.6}],
    }

    result = as_json(done, QUICK)

    rows = {row["row"]: row for row in result["ablation"]}
    names = ("miou_mean", "miou_low", "miou_high", "miou_std", "seeds", "miou_by_seed")
    assert [rows["1"][name] for name in names] == [0.3, 0.3, 0.3, 0.0, 1, [0.3]]
    # Every scene is alike: the interval is t's of three seeds, 4.303 standard errors.
    assert [rows["5"][name] for name in names] == [0.5, 0.25159, 0.74841, 0.1, 3, [0.4, 0.5, 0.6]]
    assert json.loads(json.dumps(result)) == result
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    put_into(page, as_markdown(result), marks=(BEGIN, END))
    text = page.read_text()
    assert "old" not in text
    assert "| 5 | 4 + Domain Refine (Full) | 3 | 70.0 | 60.0 | 40.0 | 50.0 (25.2 to 74.8) | 46.76 |" in text
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "of 1,083 pairs of H_ref; 85.3 % of them" in text
    assert "| right, % of these | 60.0 |" in text
    page.write_text("no marks")
    with pytest.raises(ConfigError, match="has no marks"):
        put_into(page, "x", marks=(BEGIN, END))


def record(folder, name, seed, **mious):
    """Write the record of a job with the mIoU of its rows, as a measurement leaves it."""
    jobs = jobs_of(TRIALS["touching"], folder, folder, is_pseudo=False)
    (job,) = (each for each in jobs if (each.name, each.seed) == (name, seed))
    figures = {row.removeprefix("row_"): asked(miou) for row, miou in mious.items()}
    job.record.write_text(json.dumps({"name": name, "seed": seed, "figures": figures, "cpu_s": 1.0, "steps": 1}))


def test_a_step_counts_the_seeds_that_both_rows_have_and_five_of_them_give_a_verdict(tmp_path) -> None:
    for seed, miou in enumerate((0.3, 0.5, 0.9, 0.4, 0.6)):
        record(tmp_path, "full", seed, row_3=miou, row_4=miou + 0.1, row_5=miou + 0.1)
    for seed in (0, 1):
        record(tmp_path, "plain", seed, row_2=0.2)

    (found,) = trials(tmp_path)

    assert found["name"] == "touching"
    assert {row["row"]: row["seeds"] for row in found["ablation"]} == {"2": 2, "3": 5, "4": 5, "5": 5}
    assert [(each["row"], each["baseline"], each["trainings"], each["verdict"]) for each in found["order"]] == [
        ("3", "2", 2, "no verdict"),
        ("4", "3", 5, "holds"),
        ("5", "4", 5, "not told apart"),
    ]


def test_the_page_says_what_the_records_say() -> None:
    result = json.loads((DOCS / "records" / "appendix" / "ppt.json").read_text(encoding="utf-8"))
    assert result["trials"] == json.loads(json.dumps(trials()))
    page = (DOCS / "records" / "appendix" / "ppt.md").read_text(encoding="utf-8")
    assert page.partition(BEGIN)[2].partition(END)[0].strip() == as_markdown(result)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"only": ["full", "flor"]}, "--only flor: there is no such training here; allowed: full, .*, floor$"),
        ({"only": ["pseudo"], "is_pseudo": False}, "--only pseudo: there is no such training here"),
    ],
)
def test_a_name_of_no_training_is_refused_with_those_that_there_are(tmp_path, words, message) -> None:
    with pytest.raises(typer.BadParameter, match=message):
        main(tmp_path / "out", **words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words",
    [
        {"is_quick": True},
        {"only": ["floor"]},
        {"only": ["floor", "full", "plain"]},
        {"is_pseudo": False},
        {"epochs_factor": 0.5},
        {"world": "second"},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("option", "path"),
    [("json_path", DOCS / "records" / "appendix" / "ppt.json"), ("page", DOCS / "records" / "appendix" / "ppt.md")],
)
def test_a_trial_or_a_part_leaves_docs_alone(tmp_path, monkeypatch, words, option, path) -> None:
    # However the path is written.
    monkeypatch.chdir(DOCS / "..")
    before = path.read_bytes()
    with pytest.raises(typer.BadParameter, match="lies in docs, which has the figures of all rows"):
        main(tmp_path / "out", **words, **{option: path.relative_to(DOCS.parent)})
    assert path.read_bytes() == before
    assert not (tmp_path / "out").exists()


def test_a_trial_may_write_elsewhere_and_the_whole_into_docs(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("evidence.experiments.ppt.__main__.make_runs", Mock(side_effect=OSError("begun")))
    with pytest.raises(OSError, match="begun"):
        main(tmp_path / "out", is_quick=True, json_path=tmp_path / "docs" / "records" / "appendix" / "ppt.json")
    written = {
        "json_path": DOCS / "records" / "appendix" / "ppt.json",
        "page": DOCS / "records" / "appendix" / "ppt.md",
    }
    with pytest.raises(OSError, match="begun"):
        main(tmp_path / "out", **written, epochs_factor=WHOLE.epochs_factor)


def test_a_choice_is_right_where_it_is_the_target_and_others_are_not_judged(tmp_path) -> None:
    rows = [(mask, text, UNDECIDED) for text in ("the first", "the second", "all") for mask in (0, 5)]
    h = build_run(tmp_path / "h", num_shards=1, per_shard=1, rows=lambda number: rows, recipe="pairs")
    said = [(0, "the first", {}), (5, "the second", {}), (0, "all", {}), (5, "all", {})]
    truth = build_run(tmp_path / "truth", num_shards=1, per_shard=1, rows=lambda number: said)
    made = AblationRuns("", "", h.location.root, truth.location.root, "", None)
    for seed, chosen in enumerate([[0, 0, 1], [-1, 1, 1]]):
        folder = tmp_path / f"{seed}" / "03-ris_joint"
        folder.mkdir(parents=True)
        write_chosen(folder, chosen, min_iou=0.5)

    found = mean_select([select_figures(tmp_path / name, made) for name in ("0", "1")])

    # "all" has two targets. One training decides both others, and one of them rightly; the other one of one.
    assert found == {"pairs": 2, "reachable": 1.0, "rounds": [{"name": "03-ris_joint", "decided": 0.75, "right": 0.75}]}


ROWS = ("peak, by agreement", "peak, by predicted IoU", "points", "peak, by agreement, feature surgery")


@pytest.mark.long
def test_every_grounding_and_the_pairs_are_measured_and_written(tmp_path) -> None:
    figures, sheet = tmp_path / "figures.json", tmp_path / "sheet.png"

    app = typer.Typer()
    app.command()(command.main)
    words = [tmp_path / "data", "--objects", 20, "--scenes", 2, "--json", figures, "--sheet", sheet]
    outcome = CliRunner().invoke(app, [str(each) for each in words])
    assert outcome.exit_code == 0, outcome.output
    found = json.loads(figures.read_text())
    assert (found["images"], found["scenes"]) == (20, 2)
    assert tuple(found["objects"]) == ROWS
    for name, row in found["objects"].items():
        # The page's figures of 200 images are 0.80 to 0.87.
        assert 0.6 < row["miou"] <= 1
        assert row["above_half"] >= 0.7
        assert f"{name}: mIoU {row['miou']:.3f}, above 0.5 {row['above_half']:.2f}" in outcome.output
    pairs = found["pairs"]
    assert pairs["texts"] > 2
    assert pairs["without"] + pairs["single"] + pairs["several"] == pytest.approx(1)
    assert pairs["pseudo_masks"] >= 2
    assert sheet.stat().st_size > 0
