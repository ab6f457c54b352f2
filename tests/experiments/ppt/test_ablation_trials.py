"""Trials of the ablation: which records they are made of."""

import json
from pathlib import Path

from experiments.ppt.ablation_jobs import jobs_of
from experiments.ppt.ablation_table import BEGIN, END, TRIALS, as_markdown, trials

DOCS = Path(__file__).parents[3] / "docs"
TOUCHING = TRIALS["touching"]
PRECISION = {"p30": 0.7, "p50": 0.6, "p60": 0.5, "p70": 0.4, "p80": 0.3, "p90": 0.2}


def record(folder, sizes, name, seed, **mious):
    """Write the record of a job with the mIoU of its rows, as a measurement leaves it."""
    (job,) = (
        each for each in jobs_of(sizes, folder, folder, is_pseudo=False) if (each.name, each.seed) == (name, seed)
    )
    figures = {
        row.removeprefix("row_"): {"miou": miou, **PRECISION, "iou_sums": [2 * miou] * 10, "num_expressions": [2] * 10}
        for row, miou in mious.items()
    }
    job.record.write_text(json.dumps({"name": name, "seed": seed, "figures": figures, "cpu_s": 1.0, "steps": 1}))


def test_a_step_counts_the_seeds_that_both_rows_have_and_five_of_them_give_a_verdict(tmp_path) -> None:
    for seed, miou in enumerate((0.3, 0.5, 0.9, 0.4, 0.6)):
        record(tmp_path, TOUCHING, "full", seed, row_3=miou, row_4=miou + 0.1, row_5=miou + 0.1)
    for seed in (0, 1):
        record(tmp_path, TOUCHING, "plain", seed, row_2=0.2)

    (found,) = trials(tmp_path)

    assert found["name"] == "touching"
    assert {row["row"]: row["seeds"] for row in found["ablation"]} == {"2": 2, "3": 5, "4": 5, "5": 5}
    assert [(each["row"], each["baseline"], each["trainings"], each["verdict"]) for each in found["order"]] == [
        ("3", "2", 2, "no verdict"),
        ("4", "3", 5, "holds"),
        ("5", "4", 5, "not told apart"),
    ]


def test_the_page_says_what_the_records_say() -> None:
    result = json.loads((DOCS / "records" / "ppt.json").read_text(encoding="utf-8"))
    assert result["trials"] == json.loads(json.dumps(trials()))
    page = (DOCS / "records" / "ppt.md").read_text(encoding="utf-8")
    assert page.partition(BEGIN)[2].partition(END)[0].strip() == as_markdown(result)
