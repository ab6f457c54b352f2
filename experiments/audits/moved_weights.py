"""`calibrate --audit` on annotated scenes: weights moved by 100, 200 and 400 verdicts against the label-free ones.

    python -m experiments.audits.moved_weights [--json experiments/results/audit-weights.json] [--page docs/audit.md]

Scenes of all three worlds are annotated by `tiny` with a listener, on SAM's own masks; the oracle judges. An
audit is drawn from the candidates as a user's is, with what the label-free weights keep as what the run keeps.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer

from experiments.listener.judged_scenes import collect
from experiments.listener.label_budget import figures_of
from experiments.ppt.ablation_table import put_into
from experiments.quality.annotated_scenes import LISTENED, SceneSet
from experiments.quality.parts import Options
from pseudoris.audit.draw import DrawOptions
from pseudoris.audit.strata import draw_pairs, make_strata
from pseudoris.schemas.caption_settings import ConfidenceConfig
from pseudoris.schemas.confidence import confidence_of, ranks
from pseudoris.synthworld.scenes import Split
from pseudoris.synthworld.worlds import DEFAULT_WORLD
from pseudoris.training.calibration.audited_fit import AuditedVerdict, audited_weights
from pseudoris.training.calibration.confidence_fit import NO_LABEL_RANK, NO_LABELS, Calibration, without_labels
from pseudoris.training.calibration.labelled_images import JudgedImage

WORLDS: Final = {DEFAULT_WORLD: "test", "second": "second renderer", "shifted": "shifted world"}
COUNTS: Final = (100, 200, 400)
NUM_DRAWS: Final = 20
NUM_SCENES: Final = 240
# The prior was chosen on the first 60 of each world; no other experiment has seen these.
FIRST_SCENE: Final = 5_000
_YIELD: Final = 2.0
BEGIN: Final = "<!-- weights: written by `python -m experiments.audits.moved_weights` -->"
END: Final = "<!-- end of weights -->"


def measure(scenes: Sequence[JudgedImage], *, num_draws: int = NUM_DRAWS) -> list[dict[str, Any]]:
    """Return a row for no verdict, and one for each number of verdicts: means over draws, and the worst of them.

    All weights keep as many expressions as the label-free ones, so that accuracies can be compared.
    """
    alone = without_labels(scenes, NO_LABELS, wanted_yield=_YIELD)
    kept = [alone.reached.bounds.keeps(scene, alone.weights) for scene in scenes]
    number = sum(int(each.sum()) for each in kept)
    before = figures_of([scene.sums(each) for scene, each in zip(scenes, kept, strict=True)])
    rows = [_row(0, before, np.array([before]))]
    for count in COUNTS:
        found = [
            _figures(scenes, audited_weights(scenes, _audited(scenes, alone, count, seed))[0], number)
            for seed in range(num_draws)
        ]
        rows.append(_row(count, before, np.array(found)))
    return rows


def _figures(scenes: Sequence[JudgedImage], weights: ConfidenceConfig, number: int) -> list[float]:
    """Return accuracy, yield and coverage of the `number` most confident candidates of rank 3 or less."""
    confidence = [confidence_of(scene.features, weights) for scene in scenes]
    inside = [
        np.where(ranks(each, scene.rated.groups) <= NO_LABEL_RANK, each, -1.0)
        for each, scene in zip(confidence, scenes, strict=True)
    ]
    bound = np.sort(np.concatenate(inside))[-number]
    return figures_of([scene.sums(each >= bound) for scene, each in zip(scenes, inside, strict=True)])


def _audited(
    scenes: Sequence[JudgedImage], alone: Calibration, count: int, seed: int
) -> dict[tuple[str, str], AuditedVerdict]:
    """Return the verdicts of one audit."""
    confidence, kept, lone, right, image = (
        np.concatenate(parts) for parts in zip(*_columns(scenes, alone), strict=True)
    )
    keys = [key for scene in scenes for key in zip(scene.rated.groups, scene.rated.texts, strict=True)]
    options = DrawOptions()
    strata = make_strata(
        score=confidence, is_kept=kept, is_lone=lone, num_drawn=count, unkept_share=options.unkept_share
    )
    found: dict[tuple[str, str], AuditedVerdict] = {}
    for number, each in enumerate(strata):
        drawn = draw_pairs(each.pairs, image[each.pairs], each.num_drawn, np.random.default_rng([seed, number]))
        inclusion = drawn.first_stage * drawn.second_stage
        for row, chance in zip(drawn.pairs.tolist(), inclusion.tolist(), strict=True):
            found[keys[row]] = AuditedVerdict(float(right[row]), 1 / chance)
    return found


def _columns(scenes: Sequence[JudgedImage], alone: Calibration) -> Iterator[tuple[np.ndarray, ...]]:
    for number, scene in enumerate(scenes):
        kept = alone.reached.bounds.keeps(scene, alone.weights)
        lone = np.isnan(scene.rated.scores["distinctiveness"])
        yield confidence_of(scene.features, alone.weights), kept, lone, scene.is_right, np.full(len(kept), number)


def _row(count: int, before: Sequence[float], found: np.ndarray) -> dict[str, Any]:
    accuracy, expressions, coverage = found.mean(axis=0).round(4).tolist()
    gains = found[:, 0] - before[0]
    return {
        "verdicts": count,
        "draws": len(found),
        "accuracy": accuracy,
        "yield": expressions,
        "coverage": coverage,
        "gain": round(float(gains.mean()), 4),
        "worst_gain": round(float(gains.min()), 4),
    }


def as_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of all worlds."""
    lines = [
        "| scenes | verdicts | accuracy | expressions a mask | coverage | gain in accuracy | the worst of 20 audits |",
        "| --- | --: | --: | --: | --: | --: | --: |",
    ]
    for row in rows:
        gains = "| – | – |" if not row["verdicts"] else f"| {row['gain']:+.3f} | {row['worst_gain']:+.3f} |"
        lines.append(
            f"| {WORLDS[row['world']]} | {row['verdicts'] or 'none'} | {row['accuracy']:.3f} | {row['yield']:.2f} | "
            f"{row['coverage']:.3f} {gains}"
        )
    return "\n".join(lines)


def main(
    out: Annotated[Path, typer.Option(help="Of annotated scenes.")] = Path("quality-out"),
    scenes: Annotated[int, typer.Option(min=1, help="Of each world.")] = NUM_SCENES,
    processes: Annotated[int, typer.Option(min=1, help="Of one thread each.")] = 1,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the rows here.")] = None,
    page: Annotated[Path | None, typer.Option(help="Put the table into this page, between its marks.")] = None,
) -> None:
    """Annotate what is missing, and print the table."""
    options = Options(out, processes=processes)
    rows = []
    for world in WORLDS:
        judged = collect(options, SceneSet(Split.TEST, scenes, world, first=FIRST_SCENE), LISTENED)
        rows += [{"world": world, "scenes": len(judged), **row} for row in measure(judged)]
    if json_path is not None:
        json_path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    table = as_markdown(rows)
    if page is not None:
        put_into(page, table, marks=(BEGIN, END))
    typer.echo(table)


if __name__ == "__main__":
    typer.run(main)
