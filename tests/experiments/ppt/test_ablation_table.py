"""Rows of the ablation: what each is trained on, and how its figures are told."""

import json
from dataclasses import replace

import pytest

from experiments.ppt.ablation_jobs import config_of, jobs_of, student_config
from experiments.ppt.ablation_rows import BESIDE, PAPER, TRAININGS
from experiments.ppt.ablation_runs import QUICK, WHOLE, AblationRuns
from experiments.ppt.ablation_table import BEGIN, END, as_json, as_markdown, put_into
from pseudoris.schemas.errors import ConfigError
from pseudoris.training.ppt.curriculum import plan_rounds
from pseudoris.training.student.student_config import load_student_config

RUNS = AblationRuns("sem", "ref", "h", "truth", "val", "pseudo")
FIGURES = {"miou": 0.5, "oiou": 0.6, "p30": 0.7, "p50": 0.6, "p60": 0.5, "p70": 0.4, "p80": 0.3, "p90": 0.2}


def test_every_row_of_the_papers_table_is_measured_by_one_training_or_the_floor() -> None:
    measured = [row for training in TRAININGS for row in training.phases.values()] + ["1", "student-pseudo"]
    assert sorted(measured) == sorted([*PAPER, *BESIDE])


def test_the_rows_differ_in_data_and_phases_as_the_paper_says() -> None:
    by_row = {row: training for training in TRAININGS for row in training.phases.values()}
    given = {
        row: {name for name in ("d_sem", "d_ref", "h", "annotated") if getattr(by_row[row].runs(RUNS), name)}
        for row in by_row
    }
    assert given["5"] == given["4"] == given["3"] == given["6"] == {"d_sem", "d_ref", "h"}
    assert given["order"] == given["no-anchors"] == given["5"]
    assert config_of(by_row["order"], WHOLE, 0).objective.point_correspondence == "order"
    assert config_of(by_row["no-anchors"], WHOLE, 0).generator.anchor_gain == 0
    assert given["7"] == {"d_sem", "h"}
    assert given["8"] == {"d_ref", "h"}
    assert given["9"] == given["2"] == {"h"}
    assert given["with-pseudo"] == {*given["5"], "annotated"}
    assert given["ppt-pseudo"] == {"d_sem", "d_ref", "annotated"}
    pairs = {"d_sem": 10, "d_ref": 10, "h_sem": 10, "h_ref": 10}
    without = plan_rounds(config_of(by_row["6"], WHOLE, 0).curriculum, pairs, 10)
    assert len(without) == 1
    assert not without[0].is_selecting
    with_all = plan_rounds(config_of(by_row["5"], WHOLE, 0).curriculum, pairs, 10)
    assert with_all[-1].phase == "refinement"
    assert with_all[-1].sources == ("h_sem", "h_ref")
    kept = plan_rounds(config_of(by_row["kept-composed"], WHOLE, 0).curriculum, pairs, 10)
    assert given["kept-composed"] == given["5"]
    assert [each.name for each in kept] == [each.name for each in with_all]
    assert kept[-1].sources == ("d_ref", "h_sem", "h_ref")
    assert kept[:-5] == with_all[:-5]


def test_the_first_five_rows_have_several_seeds(tmp_path) -> None:
    jobs = jobs_of(RUNS, WHOLE, tmp_path)
    assert {job.name: sum(other.name == job.name for other in jobs) for job in jobs} == {
        **dict.fromkeys(("full", "plain"), WHOLE.num_seeds),
        **dict.fromkeys(("no-curriculum", "no-augmented", "no-free", "no-objects"), 1),
        **dict.fromkeys(("kept-composed", "order", "no-anchors", "pseudo", "with-pseudo"), 1),
        **dict.fromkeys(("student-pseudo", "floor"), 1),
    }
    assert len({job.folder for job in jobs}) == len(jobs)


@pytest.mark.parametrize("changed", ["objects", "val_scenes", "epochs_factor"])
def test_figures_of_other_sizes_are_never_taken_for_these(tmp_path, changed) -> None:
    others = replace(WHOLE, **{changed: 2 * getattr(WHOLE, changed)})
    folders = [{job.folder for job in jobs_of(RUNS, sizes, tmp_path)} for sizes in (WHOLE, others)]
    assert not folders[0] & folders[1]


def test_a_longer_student_is_trained_anew_and_nothing_else_is(tmp_path) -> None:
    longer = replace(WHOLE, num_student_steps=2 * WHOLE.num_student_steps)
    before, after = ({job.folder: job.kind for job in jobs_of(RUNS, sizes, tmp_path)} for sizes in (WHOLE, longer))
    assert [kind for folder, kind in after.items() if folder not in before] == ["student"]


def test_the_student_beside_it_is_the_one_that_is_shipped_for_as_long_as_is_said() -> None:
    shipped, used = load_student_config("tiny"), student_config(WHOLE)
    # A tenth warms up, where that is less than in a training as shipped.
    length = {"num_steps": WHOLE.num_student_steps, "num_warmup_steps": WHOLE.num_student_steps // 10}
    assert used == shipped.model_copy(update={"training": shipped.training.model_copy(update=length)})


def test_the_result_has_means_and_deviations_and_stands_in_the_page_between_its_marks(tmp_path) -> None:
    seeds = [{**FIGURES, "miou": value} for value in (0.4, 0.5, 0.6)]
    done = [{"figures": {"5": each}, "cpu_s": 2.0, "steps": 10} for each in seeds]
    done += [{"figures": {"1": FIGURES}, "cpu_s": 1.0, "steps": 0}]
    result = as_json(done, QUICK)
    assert [(row["row"], row["miou_mean"], row["miou_std"]) for row in result["ablation"]] == [
        ("1", 0.5, 0.0),
        ("5", 0.5, 0.1),
    ]
    assert result["trainable_parameters_paper"] == pytest.approx(20.7e6, rel=0.05)
    assert json.loads(json.dumps(result)) == result
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    put_into(page, as_markdown(result))
    text = page.read_text()
    assert "old" not in text
    assert "| 5 | 4 + Domain Refine (Full) | 70.0 | 60.0 | 40.0 | 50.0 ± 10.0 | 46.76 |" in text
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    rounds = [{"name": "03-referring", "decided": 0.9, "right": 0.6}]
    told = as_markdown({**result, "select": {"pairs": 1083, "reachable": 0.853, "rounds": rounds}})
    assert "of 1,083 pairs of H_ref; 85.3 % of them" in told
    assert "| right, % of these | 60.0 |" in told
    page.write_text("no marks")
    with pytest.raises(ConfigError, match="has no marks"):
        put_into(page, "x")
