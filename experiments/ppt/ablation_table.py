"""The figures of an ablation as JSON and as a table of docs/ppt.md."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Final

from experiments.ppt.ablation_rows import BESIDE, PAPER
from experiments.ppt.ablation_runs import Sizes
from pseudoris.schemas.errors import ConfigError
from pseudoris.training.ppt.point_generator import PointGenerator
from pseudoris.training.ppt.ppt_config import PointGeneratorConfig

BEGIN: Final = "<!-- ablation: written by `python -m experiments.ppt` -->"
END: Final = "<!-- end of ablation -->"
_SHOWN: Final = ("p30", "p50", "p70")
# Source: CLIP ViT-B/16: 768 channels a patch, 512 a word.
_PAPER_WIDTHS: Final = (768, 512)


def paper_parameters() -> int:
    """Return the trained parameters of the paper's size."""
    generator = PointGenerator(PointGeneratorConfig(), *_PAPER_WIDTHS)
    return sum(weight.numel() for weight in generator.parameters())


def as_json(done: Sequence[Mapping[str, Any]], sizes: Sizes) -> dict[str, Any]:
    """Return the whole result: means and deviations of each row over its seeds.

    Args:
        done: What `ablation_jobs.measure` returned, of all jobs.
        sizes: That it was measured with.
    """
    seeds: defaultdict[str, list[Mapping[str, float]]] = defaultdict(list)
    steps: dict[str, int] = {}
    for each in done:
        for row, figures in each["figures"].items():
            seeds[row].append(figures)
            # Of the whole training, whichever of its phases the row is.
            steps[row] = each["steps"]
    ablation = [
        {"row": row, "name": name, **_summary(seeds[row]), "training_steps": steps[row], "paper_miou": paper}
        for row, (name, paper) in PAPER.items()
        if row in seeds
    ]
    beside = [
        {"row": row, "name": name, **_summary(seeds[row]), "training_steps": steps[row]}
        for row, name in BESIDE.items()
        if row in seeds
    ]
    return {
        "trainable_parameters_paper": paper_parameters(),
        "ablation": ablation,
        "beside": beside,
        "sizes": asdict(sizes),
        "cpu_s": round(sum(each["cpu_s"] for each in done)),
        "steps": sum(each["steps"] for each in done),
    }


def _summary(seeds: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """The mean over seeds of each figure, and of mIoU the standard deviation of a sample, 0 of one."""
    means = {name: round(fmean(each[name] for each in seeds), 5) for name in seeds[0]}
    values = [each["miou"] for each in seeds]
    deviation = stdev(values) if len(values) > 1 else 0.0
    rest = {name: value for name, value in means.items() if name != "miou"}
    of_seeds = {"seeds": len(seeds), "miou_by_seed": [round(value, 5) for value in values]}
    return {"miou_mean": means["miou"], "miou_std": round(deviation, 5), **of_seeds, **rest}


def as_markdown(result: Mapping[str, Any]) -> str:
    """Return the table, the paper's mIoU beside each row."""
    head = ["| | | P@0.3 | P@0.5 | P@0.7 | mIoU | the paper's mIoU |", "| --- | --- | --: | --: | --: | --: | --: |"]
    rows = [_line(row["row"], row, f"{row['paper_miou']:.2f}") for row in result["ablation"]]
    rows += [_line("", row, "") for row in result["beside"]]
    return "\n".join([*head, *rows, *_select_lines(result.get("select"))])


def _select_lines(found: Mapping[str, Any] | None) -> list[str]:
    """How often Select is right, where it was measured."""
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
    deviation = f" ± {100 * row['miou_std']:.1f}" if row["seeds"] > 1 else ""
    return f"| {number} | {row['name']} | {shares} | {100 * row['miou_mean']:.1f}{deviation} | {paper} |"


def put_into(page: Path, table: str) -> None:
    """Replace the table of a page, between its two marks.

    Raises:
        ConfigError: The page has no such marks.
    """
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"{page} has no marks {BEGIN} … {END} for the table: put them where it shall stand")
    page.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}", encoding="utf-8")
