"""Audits of a composed run of drawn scenes, whose oracle gives the verdicts: what they could fit to the composer.

    python -m evidence.experiments.audits.drawn_run --out CACHE --json RESULTS/audits.json
        --page docs/records/appendix/audits.md

The verdicts are simulated: the oracle's, 5 % of them wrong, 70 pairs judged twice. The run is `tiny-composed` with
`min_further` 0.6, which says more and errs more than the preset, so that there is something to choose.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from scipy.optimize import minimize

from evidence.experiments.audits.page import BEGIN, DRAWN_RUN, END, as_markdown, put_rows
from evidence.experiments.audits.populations import PairPopulation
from evidence.experiments.audits.simulated_audits import as_pairs, draw_sample, strata_of, verdicts_of
from evidence.experiments.composing.groups_and_absences import PRESET, SETTING
from evidence.experiments.listener.judged_scenes import judged_image
from evidence.experiments.oracle import judged
from evidence.experiments.quality.annotated_scenes import SceneSet, annotated_scenes
from evidence.experiments.quality.markdown_cells import put_into
from evidence.experiments.quality.parts import Options
from pseudoris.audit.draw_files import draw_kind
from pseudoris.audit.intervals import RaterChecks, error_interval
from pseudoris.audit.judged_pairs import JudgedPairs, fit_line_to_verdicts
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.fitted import Floats, confidences, log_odds, logistic, ranks
from pseudoris.schemas.keep_rule import COMPOSED_KINDS, Flags
from pseudoris.schemas.shard import SOURCE_MODEL, ShardImage
from pseudoris.synthworld.scene_truth import SceneImageTruth
from pseudoris.synthworld.scenes import Scene, Split
from pseudoris.workers.composing.composer import composer_of

NUM_AUDITS: Final = 200
RATER_ERROR: Final = 0.05
_MIN_FURTHER: Final = 0.6
_BINS: Final = 10
# Of what is composed, so much is kept at equal yield.
_YIELD: Final = 0.8


def population_of(scenes: Sequence[Scene], images: Sequence[ShardImage]) -> PairPopulation:
    """Return the pairs of a run of scenes: what the preset draws, with its confidence and rule, and composes."""
    config = load_config(PRESET, assignments=[f"composing.min_further={_MIN_FURTHER}"])
    composer, weights = composer_of(config), config.filtering.fitted_values.confidence
    if weights is None:
        raise ValueError(f"the preset {PRESET} has no weights of confidence")
    rows: list[tuple[int, str, str, float, bool, bool]] = []
    for number, (scene, image) in enumerate(zip(scenes, map(composer, images), strict=True)):
        truth = SceneImageTruth(scene)
        rated = judged_image(truth, image).rated
        confidence = confidences(rated, weights)
        is_kept = (confidence > 0.94) & (ranks(confidence, rated.groups) <= 3)
        of_drawn = iter(zip(confidence.tolist(), is_kept.tolist(), strict=True))
        is_right = judged(truth, image, image.expressions)[1].is_right.tolist()
        for each, right in zip(image.expressions, is_right, strict=True):
            known, kept = next(of_drawn) if each.source == SOURCE_MODEL else (each.confidence or 0.0, True)
            target = each.target_mask_ids[0] if len(each.target_mask_ids) == 1 else f"{image.image_id}-none"
            rows.append((number, target, draw_kind(each.source, each.kind), known, kept, right))
    image_of, targets, kinds, confidence_of, kept_of, right_of = zip(*rows, strict=True)
    masks = {target: place for place, target in enumerate(dict.fromkeys(targets))}
    return PairPopulation(
        image=np.array(image_of, np.int64),
        mask=np.array([masks[target] for target in targets], np.int64),
        score=np.array(confidence_of, np.float64),
        is_kept=np.array(kept_of, np.bool_),
        is_right=np.array(right_of, np.bool_),
        num_masks=len(masks),
        missed=np.zeros(len(images), np.int64),
        kind=np.array(kinds, np.str_),
    )


def audited(population: PairPopulation, fresh: PairPopulation, num_audits: int) -> list[dict[str, Any]]:
    """Return a row for each correction of the composer, which is asked of fresh scenes."""
    rng = np.random.default_rng(0)
    figures: dict[str, list[dict[str, float]]] = defaultdict(list)
    strata = strata_of(population)
    for _ in range(num_audits):
        sample = draw_sample(population, strata, rng)
        verdicts, checks = verdicts_of(population.is_right[sample.rows], RATER_ERROR, rng)
        pairs = as_pairs(population, sample, verdicts)
        for name, lines in _corrections(pairs, population.score[sample.rows], checks).items():
            figures[name].append(_quality(fresh, lines))
    shared = {"question": DRAWN_RUN, "audits": num_audits, "rater_error": RATER_ERROR, "verdicts": 200}
    rows: list[dict[str, Any]] = []
    for name, parts in figures.items():
        told = {key: round(float(np.nanmean([each.get(key, np.nan) for each in parts])), 4) for key in parts[0]}
        rows.append({**shared, "design": name, **told})
    return rows


def _corrections(pairs: JudgedPairs, score: Floats, checks: RaterChecks) -> Mapping[str, Mapping[str, Floats]]:
    """Return by correction, then kind, its bias and slope, (2,) float64."""
    error = error_interval(checks).value
    rows = np.isin(pairs.kind, COMPOSED_KINDS) & pairs.is_kept
    score, right, kind = score[rows], pairs.right[rows], pairs.kind[rows]
    line = fit_line_to_verdicts(score, right, error)

    def with_biases(own: Sequence[str]) -> Mapping[str, Floats]:
        return _with_biases(score, right, {name: kind == name for name in own}, error)

    return {
        "weights left alone": dict.fromkeys(COMPOSED_KINDS, np.array([0.0, 1.0])),
        "a line": dict.fromkeys(COMPOSED_KINDS, np.array([line.bias, line.slope])),
        "a line, absences apart": with_biases(["none"]),
        "a line, each kind apart": with_biases(COMPOSED_KINDS[1:]),
    }


def _with_biases(score: Floats, right: Floats, own: Mapping[str, Flags], error: float) -> Mapping[str, Floats]:
    """Fit a line, and a bias for each of `own`, with the spreads beforehand of `fit_line_to_verdicts`."""
    odds, flags = log_odds(score), np.array(list(own.values()), np.float64)

    def loss(found: Floats) -> float:
        right_odds = found[0] + found[1] * odds + found[2:] @ flags
        said = error + (1 - 2 * error) * np.clip(logistic(right_odds), 1e-6, 1 - 1e-6)
        surprise = -(right * np.log(said) + (1 - right) * np.log(1 - said)).sum()
        return float(surprise + (found[0] ** 2 + ((found[1] - 1) / 0.5) ** 2 + (found[2:] ** 2).sum()) / 2)

    found = minimize(loss, np.array([0.0, 1.0, *(0.0 for _ in own)]), method="L-BFGS-B").x
    extra = dict(zip(own, found[2:], strict=True))
    return {name: np.array([found[0] + extra.get(name, 0.0), found[1]]) for name in COMPOSED_KINDS}


def _quality(population: PairPopulation, lines: Mapping[str, Floats]) -> dict[str, float]:
    """Return calibration error of what is composed, and accuracy by kind of the likeliest, at a fixed yield."""
    rows = np.isin(population.kinds, COMPOSED_KINDS) & population.is_kept
    kind, right = population.kinds[rows], population.is_right[rows].astype(np.float64)
    line = np.array([lines[name] for name in kind.tolist()])
    likely = logistic(line[:, 0] + line[:, 1] * log_odds(population.score[rows]))
    order = np.argsort(-likely, kind="stable")
    bins = np.array_split(order, _BINS)
    error = sum(len(each) * abs(likely[each].mean() - right[each].mean()) for each in bins) / len(order)
    kept = order[: round(_YIELD * len(order))]
    by_kind: dict[str, float] = {
        name: float(right[kept][kind[kept] == name].mean()) for name in COMPOSED_KINDS if name in kind[kept]
    }
    return {"calibration_error": float(error), "all": float(right[kept].mean()), **by_kind}


def main(
    out: Annotated[Path, typer.Option(help="Folder of annotated scenes, which are used again.")],
    json_path: Annotated[Path | None, typer.Option("--json", help="Put the rows into this file of rows.")] = None,
    page: Annotated[Path | None, typer.Option(help="Put all tables of that file into this page.")] = None,
    audits: Annotated[int, typer.Option(min=1)] = NUM_AUDITS,
    scenes: Annotated[int, typer.Option(min=2, help="Of the audited run, and of the fresh one.")] = 200,
) -> None:
    """Simulate the audits, and print the rows."""
    found = []
    for first in (0, 400):
        asked = SceneSet(Split.DEVELOPMENT, scenes, first=first)
        found.append(population_of(asked.all(), annotated_scenes(Options(out, processes=1), asked, SETTING)))
    rows = audited(found[0], found[1], audits)
    typer.echo(json.dumps(rows, indent=1))
    if json_path is not None:
        every = put_rows(json_path, rows, is_drawn=True)
        if page is not None:
            put_into(page, as_markdown(every), marks=(BEGIN, END))


if __name__ == "__main__":
    typer.run(main)
