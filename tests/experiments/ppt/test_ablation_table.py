"""Rows of the ablation: what each is trained on, and how its figures are told."""

import json
from dataclasses import replace

import pytest

from experiments.ppt.ablation_jobs import config_of, jobs_of, student_config
from experiments.ppt.ablation_rows import BESIDE, PAPER, QUICK, TRAININGS, WHOLE, AblationRuns
from experiments.ppt.ablation_table import BEGIN, END, as_json, as_markdown
from experiments.quality.markdown_cells import put_into
from experiments.segmenter.segmenter_config import load_segmenter_config
from pseudoris.schemas.errors import ConfigError
from pseudoris.training.ppt.curriculum import plan_rounds

RUNS = AblationRuns("sem", "ref", "h", "truth", "val", "pseudo")
PRECISION = {"p30": 0.7, "p50": 0.6, "p60": 0.5, "p70": 0.4, "p80": 0.3, "p90": 0.2}


def asked(miou: float) -> dict[str, object]:
    """Return what a row of ten scenes with two expressions each records."""
    return {"miou": miou, "oiou": 0.6, **PRECISION, "iou_sums": [2 * miou] * 10, "num_expressions": [2] * 10}


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
    assert given["order"] == given["no-anchors"] == given["regression"] == given["5"]
    assert config_of(by_row["order"], WHOLE, 0).objective.point_correspondence == "order"
    assert config_of(by_row["no-anchors"], WHOLE, 0).generator.anchor_gain == 0
    assert config_of(by_row["regression"], WHOLE, 0).generator.point_head == "regression"
    assert given["7"] == {"d_sem", "h"}
    assert given["8"] == {"d_ref", "h"}
    assert given["9"] == given["2"] == {"h"}
    assert given["with-pseudo"] == {*given["5"], "annotated"}
    assert given["ppt-pseudo"] == {"d_sem", "d_ref", "annotated"}
    pairs = {"d_sem": 10, "d_ref": 10, "h_sem": 10, "h_ref": 10}
    without = plan_rounds(config_of(by_row["6"], WHOLE, 0).curriculum, pairs, len)
    assert len(without) == 1
    assert not without[0].is_selecting
    with_all = plan_rounds(config_of(by_row["5"], WHOLE, 0).curriculum, pairs, len)
    assert with_all[-1].phase == "refinement"
    assert with_all[-1].sources == ("h_sem", "h_ref")
    kept = plan_rounds(config_of(by_row["kept-composed"], WHOLE, 0).curriculum, pairs, len)
    assert given["kept-composed"] == given["5"]
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
