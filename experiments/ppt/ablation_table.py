"""The figures of an ablation as JSON and as a table of docs/ppt.md."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Final

from experiments.ppt.ablation_jobs import RECORDS, jobs_of, mean_select, measure
from experiments.ppt.ablation_rows import BESIDE, ORDER, PAPER, TRAININGS, WHOLE, Sizes
from experiments.quality.seed_bootstrap import PairedSeedBootstrap
from pseudoris.training.evaluation.bootstrap import Estimate
from pseudoris.training.ppt.point_generator import PointGenerator
from pseudoris.training.ppt.ppt_config import load_ppt_config

BEGIN: Final = "<!-- ablation: written by `python -m experiments.ppt` -->"
END: Final = "<!-- end of ablation -->"
_SHOWN: Final = ("p30", "p50", "p70")
_UNMEASURED: Final = "not measured"
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
    head = [
        "| | | seeds | P@0.3 | P@0.5 | P@0.7 | mIoU (95 % interval) | the paper's mIoU |",
        "| --- | --- | --: | --: | --: | --: | --: | --: |",
    ]
    rows = [_line(row["row"], row, f"{row['paper_miou']:.2f}") for row in result["ablation"]]
    rows += [_line("", row, "") for row in result["beside"]]
    return "\n".join([*head, *rows, *_order_lines(result), *_select_lines(result.get("select"))])


def _order_lines(result: Mapping[str, Any]) -> list[str]:
    """The steps of the paper's order, a column for what was measured here and one for each trial beside it."""
    if not result["order"]:
        return []
    columns = [{**result, "name": result["sizes"]["world"]}, *result.get("trials", ())]
    heads: list[str] = []
    ends: dict[str, list[str]] = {"1": [], "5": []}
    for column in columns:
        rows = {row["row"]: row for row in column["ablation"]}
        num_seeds = max(row["seeds"] for row in rows.values())
        heads.append(f"{column['name']}, {num_seeds} seed{'s' if num_seeds > 1 else ''}")
        for row, cells in ends.items():
            cells.append(f"{100 * rows[row]['miou_mean']:.1f}" if row in rows else _UNMEASURED)
    lines = [f"| rows | the paper's | {' | '.join(heads)} |", f"| --- | --: | {' | '.join(['---'] * len(heads))} |"]
    lines += [f"| mIoU of {row} | {PAPER[row][1]:.2f} | {' | '.join(cells)} |" for row, cells in ends.items()]
    for row, baseline in ORDER:
        verdicts = [_verdict(row, baseline, column["order"]) for column in columns]
        paper = PAPER[row][1] - PAPER[baseline][1]
        lines.append(f"| {row} − {baseline} | {paper:+.2f} | {' | '.join(verdicts)} |")
    return ["", *lines]


def _verdict(row: str, baseline: str, steps: Sequence[Mapping[str, Any]]) -> str:
    for step in steps:
        if (step["row"], step["baseline"]) == (row, baseline):
            found, low, high = (f"{100 * step[name]:+.1f}" for name in ("difference", "low", "high"))
            return f"{step['verdict']}: {found} ({low} to {high})"
    return _UNMEASURED


def _select_lines(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return []
    rounds = found["rounds"]
    decided, right = (" | ".join(f"{100 * each[name]:.1f}" for each in rounds) for name in ("decided", "right"))
    return [
        "",
        f"Select in the rounds of 4 and 5, means over their seeds, of {found['pairs']:,} pairs of H_ref; "
        f"{100 * found['reachable']:.1f} % of them have the referent among their pseudo-masks:",
        "",
        f"| before round | {' | '.join(each['name'] for each in rounds)} |",
        f"| --- | {' | '.join(['--:'] * len(rounds))} |",
        f"| decided, % of pairs | {decided} |",
        f"| right, % of these | {right} |",
    ]


def _line(number: str, row: Mapping[str, Any], paper: str) -> str:
    shares = " | ".join(f"{100 * row[name]:.1f}" for name in _SHOWN)
    mean, low, high = (f"{100 * row[f'miou_{name}']:.1f}" for name in ("mean", "low", "high"))
    return f"| {number} | {row['name']} | {row['seeds']} | {shares} | {mean} ({low} to {high}) | {paper} |"


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
