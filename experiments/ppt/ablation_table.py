"""The figures of an ablation as JSON and as a table of docs/records/ppt.md."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Final

from experiments.ppt.ablation_jobs import RECORDS, jobs_of, mean_select, measure
from experiments.ppt.ablation_rows import BESIDE, ORDER, PAPER, TRAININGS, WHOLE, Sizes
from experiments.quality.markdown_cells import render
from experiments.quality.seed_bootstrap import PairedSeedBootstrap
from pseudoris.training.evaluation.bootstrap import Estimate
from pseudoris.training.ppt.point_generator import PointGenerator
from pseudoris.training.ppt.ppt_config import load_ppt_config

BEGIN: Final = "<!-- ablation: written by `python -m experiments.ppt` -->"
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
    seeds: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    steps: dict[str, int] = {}
    for each in sorted(done, key=lambda record: int(record["seed"])):
        for row, figures in each["figures"].items():
            seeds[row].append(figures)
            # Of the whole training, whichever of its phases the row is.
            steps[row] = each["steps"]
    (num_expressions,) = {tuple(each["num_expressions"]) for of_row in seeds.values() for each in of_row}
    drawn = PairedSeedBootstrap(
        {row: [each["iou_sums"] for each in own] for row, own in seeds.items()}, num_expressions
    )
    ablation = [
        {"row": row, "name": name, **_summary(seeds[row], drawn.mean(row)), "training_steps": steps[row]}
        | {"paper_miou": paper}
        for row, (name, paper) in PAPER.items()
        if row in seeds
    ]
    beside = [
        {"row": row, "name": name, **_summary(seeds[row], drawn.mean(row)), "training_steps": steps[row]}
        for row, name in BESIDE.items()
        if row in seeds
    ]
    select = [each["select"] for each in done if "select" in each]
    return {
        "trainable_parameters_paper": paper_parameters(),
        "ablation": ablation,
        "order": [_step(*pair, drawn) for pair in ORDER if seeds.keys() >= {*pair}],
        "beside": beside,
        "sizes": asdict(sizes),
        "cpu_s": round(sum(each["cpu_s"] for each in done)),
        "steps": sum(each["steps"] for each in done),
        **({"select": mean_select(select)} if select else {}),
    }


def _summary(seeds: Sequence[Mapping[str, Any]], miou: Estimate) -> dict[str, Any]:
    """The mean over seeds of each figure; of mIoU the interval, and the deviation of a sample of seeds, 0 of one."""
    named = [name for name, value in seeds[0].items() if isinstance(value, float) and name != "miou"]
    values = [each["miou"] for each in seeds]
    return {
        "miou_mean": round(fmean(values), 5),
        "miou_low": round(miou.low, 5),
        "miou_high": round(miou.high, 5),
        "miou_std": round(stdev(values) if len(values) > 1 else 0.0, 5),
        "seeds": len(seeds),
        "miou_by_seed": [round(value, 5) for value in values],
        **{name: round(fmean(each[name] for each in seeds), 5) for name in named},
    }


def _step(row: str, baseline: str, drawn: PairedSeedBootstrap) -> dict[str, Any]:
    """A step of the paper's order: it holds, or is reversed, where the interval of the difference leaves out 0."""
    found = drawn.difference(row, baseline)
    verdict = "holds" if found.low > 0 else "reversed" if found.high < 0 else "not told apart"
    return {
        "row": row,
        "baseline": baseline,
        "difference": round(found.value, 5),
        "low": round(found.low, 5),
        "high": round(found.high, 5),
        "paper_difference": round(PAPER[row][1] - PAPER[baseline][1], 2),
        "verdict": verdict,
    }


def as_markdown(result: Mapping[str, Any]) -> str:
    """Return the tables, the paper's mIoU beside each row."""
    columns = [{**result, "name": result["sizes"]["world"]}, *result.get("trials", ())]
    told = [
        {
            "name": column["name"],
            "rows": {row["row"]: row for row in column["ablation"]},
            "seeds": max(row["seeds"] for row in column["ablation"]),
            "steps": {(step["row"], step["baseline"]): step for step in column["order"]},
        }
        for column in columns
    ]
    shared = {"select": result.get("select"), "columns": told, "paper": PAPER, "paper_order": ORDER}
    return render("ppt/tables", {**result, **shared})


TRIALS: Final[dict[str, Sizes]] = {
    "crowded": replace(WHOLE, world="crowded"),
    "twice as long": replace(WHOLE, epochs_factor=2 * WHOLE.epochs_factor),
    # As its prediction says (experiments/predictions.md). Nothing draws this world any more: its records stay.
    "touching": replace(WHOLE, world="touching", epochs_factor=0.1),
}


def trials(records: Path = RECORDS) -> list[dict[str, Any]]:
    """Return of each trial its name, the rows that it measured and the steps of the paper's order between them.

    A trial without a training is left out. Of the trainings that there are, the seeds count that each of them has.
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
    seeds: defaultdict[str, set[int]] = defaultdict(set)
    for job in jobs:
        if job.name in papers:
            seeds[job.name].add(job.seed)
    if not seeds:
        return []
    # Row 1 trains nothing: its record of any length stands for all.
    usual = jobs_of(replace(sizes, epochs_factor=WHOLE.epochs_factor), Path(), records, is_pseudo=False)
    floors = [job for job in (*jobs, *usual) if job.name == "floor" and job.is_finished]
    shared = set.intersection(*seeds.values())
    return [measure(job) for job in (*(job for job in jobs if job.name in papers and job.seed in shared), *floors[:1])]
