"""The figures of an ablation as JSON and as a table of docs/records/appendix/ppt.md."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Final

import numpy as np

from evidence.experiments.ppt.ablation_jobs import RECORDS, jobs_of, mean_select, measure
from evidence.experiments.ppt.ablation_rows import BESIDE, ORDER, TRAININGS, WHOLE, Sizes
from evidence.experiments.quality.markdown_cells import render
from evidence.experiments.verdicts import interval, variance_over_images, verdict
from examples.ppt.paper_rows import PAPER
from pseudoris.training.ppt.point_generator import PointGenerator
from pseudoris.training.ppt.ppt_config import load_ppt_config

BEGIN: Final = "<!-- ablation: written by `python -m evidence.experiments.ppt` -->"
END: Final = "<!-- end of ablation -->"
# Source: CLIP ViT-B/16: 768 channels a patch, 512 a word.
_PAPER_WIDTHS: Final = (768, 512)


def paper_parameters() -> int:
    """Return the trained parameters of the preset `paper`."""
    generator = PointGenerator(load_ppt_config("paper").generator, *_PAPER_WIDTHS)
    return sum(weight.numel() for weight in generator.parameters())


def as_json(done: Sequence[Mapping[str, Any]], sizes: Sizes) -> dict[str, Any]:
    """Return the whole result: means of each row over its seeds, intervals, and whether the paper's order holds.

    Args:
        done: What `ablation_jobs.measure` returned, of all jobs.
        sizes: That it was measured with.
    """
    seeds: defaultdict[str, dict[int, Mapping[str, Any]]] = defaultdict(dict)
    steps: dict[str, int] = {}
    for each in sorted(done, key=lambda record: int(record["seed"])):
        for row, figures in each["figures"].items():
            seeds[row][int(each["seed"])] = figures
            # Of the whole training, whichever of its phases the row is.
            steps[row] = each["steps"]
    rows = {row: {"row": row, **_summary([*own.values()]), "training_steps": steps[row]} for row, own in seeds.items()}
    select = [each["select"] for each in done if "select" in each]
    return {
        "trainable_parameters_paper": paper_parameters(),
        "ablation": [
            {"name": name, **rows[row], "paper_miou": paper} for row, (name, paper) in PAPER.items() if row in rows
        ],
        "order": [_step(*pair, seeds) for pair in ORDER if seeds.keys() >= {*pair}],
        "beside": [{"name": name, **rows[row]} for row, name in BESIDE.items() if row in rows],
        "explained": [_step(*pair, seeds) for pair in EXPLAINED if seeds.keys() >= {*pair}],
        "sizes": asdict(sizes),
        "cpu_s": round(sum(each["cpu_s"] for each in done)),
        "steps": sum(each["steps"] for each in done),
        **({"select": mean_select(select)} if select else {}),
    }


def _summary(seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean over seeds of each figure; of mIoU the interval, and the deviation of a sample of seeds, 0 of one."""
    named = [name for name, value in seeds[0].items() if isinstance(value, float) and name != "miou"]
    values = [each["miou"] for each in seeds]
    return {
        **_interval(
            "miou_mean", "miou_low", "miou_high", values, np.mean([each["iou_sums"] for each in seeds], 0), seeds
        ),
        "miou_std": round(stdev(values) if len(values) > 1 else 0.0, 5),
        "seeds": len(seeds),
        "miou_by_seed": [round(value, 5) for value in values],
        **{name: round(fmean(each[name] for each in seeds), 5) for name in named},
    }


def _step(row: str, baseline: str, seeds: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> dict[str, Any]:
    """A difference of two rows over the seeds that both have, paired; row 1 trains nothing, and stands beside each."""
    more = seeds[row]
    less = dict.fromkeys(more, seeds[baseline][0]) if baseline == "1" else seeds[baseline]
    shared = sorted(more.keys() & less.keys())
    pairs = [(more[seed], less[seed]) for seed in shared]
    values = [one["miou"] - other["miou"] for one, other in pairs]
    sums = np.mean([np.subtract(one["iou_sums"], other["iou_sums"]) for one, other in pairs], 0)
    found = _interval("difference", "low", "high", values, sums, [more[shared[0]]])
    return {
        "row": row,
        "baseline": baseline,
        **found,
        "trainings": len(shared),
        "verdict": _SAID[verdict(found["low"], found["high"], len(shared))],
    }


# A step of the paper holds above zero. `kept-composed` is to explain 5 - 4.
_SAID: Final = {"above": "holds", "below": "reversed", "not told apart": "not told apart", "no verdict": "no verdict"}
EXPLAINED: Final = (("kept-composed", "4"), ("kept-composed", "5"))


def _interval(
    mean: str, low: str, high: str, values: Sequence[float], sums: np.ndarray, asked: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    counts = asked[0]["num_expressions"]
    found = interval(fmean(values), [values], variance_over_images(sums, counts), len(counts))
    return {mean: round(found.value, 5), low: round(found.low, 5), high: round(found.high, 5)}


def as_markdown(result: Mapping[str, Any]) -> str:
    """Return the tables, the paper's mIoU beside each row."""
    columns = [{**result, "name": result["sizes"]["world"]}, *result.get("trials", ())]
    told = [
        {
            "name": column["name"],
            "rows": {row["row"]: row for row in column["ablation"]},
            "steps": {(step["row"], step["baseline"]): step for step in column["order"]},
        }
        for column in columns
    ]
    shared = {"select": result.get("select"), "columns": told, "paper": PAPER, "paper_order": ORDER}
    return render("ppt/tables", {**result, **shared})


TRIALS: Final[dict[str, Sizes]] = {
    "crowded": replace(WHOLE, world="crowded"),
    "twice as long": replace(WHOLE, epochs_factor=2 * WHOLE.epochs_factor),
    # As its prediction says (evidence/experiments/predictions.md). The world has left: these are its records.
    "touching": replace(WHOLE, world="touching", epochs_factor=0.1),
}


def trials(records: Path = RECORDS) -> list[dict[str, Any]]:
    """Return of each trial its name, the rows that it measured and the steps of the paper's order between them.

    A trial without a training is left out.
    """
    found = []
    for name, sizes in TRIALS.items():
        done = _done(sizes, records)
        if done:
            result = as_json(done, sizes)
            found.append({"name": name, **{part: result[part] for part in ("ablation", "order")}})
    return found


def _done(sizes: Sizes, records: Path) -> list[dict[str, Any]]:
    """The records of the paper's rows; none where nothing was trained."""
    papers = {each.name for each in TRAININGS if each.is_paper}
    jobs = [job for job in jobs_of(sizes, Path(), records, is_pseudo=False) if job.is_finished]
    trained = [job for job in jobs if job.name in papers]
    if not trained:
        return []
    # Row 1 trains nothing: its record of any length stands for all.
    usual = jobs_of(replace(sizes, epochs_factor=WHOLE.epochs_factor), Path(), records, is_pseudo=False)
    floors = [job for job in (*jobs, *usual) if job.name == "floor" and job.is_finished]
    return [measure(job) for job in (*trained, *floors[:1])]
