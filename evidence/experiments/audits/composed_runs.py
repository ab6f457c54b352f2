"""What 200 verdicts give on composed runs, by the code of `audit draw` and `refilter --accuracy`, simulated 200 times.

    python -m evidence.experiments.audits.composed_runs --out CACHE --world fourth [--json FILE] [--page FILE]

The runs are drawn scenes, annotated by a captioner and composed as the presets `…-composed` do, with the shipped
weights for any captioner in the run's units (`calibrate --composer`). `--world everyday` has those of
`evidence.experiments.composing.everyday_world`, of its development list, one of each condition, and `everyday-test`
those of its test list. The judge is simulated: the oracle of the drawn worlds, which makes no mistake. Scenes are
annotated where the cache lacks them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from scipy import stats

from evidence.experiments.audits.populations import PairPopulation
from evidence.experiments.audits.simulated_audits import as_pairs, draw_sample, strata_of, verdicts_of
from evidence.experiments.composing.any_captioner import CAPTIONERS, COMPOSING, setting_of
from evidence.experiments.composing.everyday_truth import is_right
from evidence.experiments.composing.everyday_world import CONDITIONS, THINGS, World
from evidence.experiments.composing.photographs import run_config
from evidence.experiments.oracle import judged
from evidence.experiments.quality.annotated_scenes import SceneSet, annotated_scenes
from evidence.experiments.quality.markdown_cells import markdown_table, put_into
from evidence.experiments.quality.parts import Options
from pseudoris.audit.draw import DEFAULT_PAIRS
from pseudoris.audit.intervals import RaterChecks
from pseudoris.audit.judged_pairs import JudgedPairs
from pseudoris.audit.rule_search import COMPOSED_START_ERRORS, choose_rules, composed_groups, composed_sequence
from pseudoris.schemas.fitted import PosteriorConfig, for_any_captioner
from pseudoris.schemas.ids import mask_index
from pseudoris.schemas.keep_rule import ONE_MASK, Flags, Ints, KeepRule
from pseudoris.schemas.shard import SOURCE_COMPOSER, ShardImage
from pseudoris.synthworld.scene_truth import SceneImageTruth
from pseudoris.synthworld.scenes import Scene, Split
from pseudoris.training.calibration.run_units import corrected
from pseudoris.workers.composing.composer import Composer, composer_of

NUM_AUDITS: Final = 200
TARGETS: Final = (0.90, 0.95)
BEGIN: Final = "<!-- composed runs: written by `python -m evidence.experiments.audits.composed_runs` -->"
END: Final = "<!-- end of composed runs -->"
# Worlds of everyday things: their lists, and the seed of the first image.
_THINGS: Final = {"everyday": THINGS, "everyday-test": THINGS.with_name("everyday_test_things.yaml")}
_FIRST: Final = {"everyday": 9_000, "everyday-test": 600_000}
_FIRST_SCENE: Final = 96_000
# What a rule must give to be of use: texts of one mask for each mask, and the share of the objects with a right one.
_LEAST: Final = (1.0, 0.5)
_PERCENTILES: Final = (50, 5, 95)


@dataclass(frozen=True, eq=False)
class ComposedRun:
    """P composed pairs, `target` (P,) the object of each one's mask; the masks and visible objects of all scenes."""

    pairs: PairPopulation
    target: Ints
    num_masks: int
    num_visible: int

    def figures(self, kept: Flags) -> tuple[float, float, float]:
        """Return accuracy, yield and coverage of what is kept of one mask; NaN, 0 and 0 if nothing is."""
        one = kept & np.isin(self.pairs.kinds, ONE_MASK)
        right, is_object = self.pairs.is_right[one], self.target[one] >= 0
        covered = len(np.unique(np.stack([self.pairs.image[one], self.target[one]])[:, right & is_object], axis=1).T)
        accuracy = float(right.mean()) if one.any() else float("nan")
        return accuracy, float(one.sum() / self.num_masks), covered / self.num_visible


def composed_run(scenes: Sequence[Scene], images: Sequence[ShardImage]) -> ComposedRun:
    """Compose for annotated scenes with the shipped weights in their units, and judge by the oracle."""
    shipped = PosteriorConfig(**for_any_captioner(is_heard=True)["values"]["posterior"])
    composer, rows, num_visible = Composer(COMPOSING, corrected(shipped, images)), list[tuple[Any, ...]](), 0
    for number, (scene, image) in enumerate(zip(scenes, images, strict=True)):
        said = [each for each in composer(image).expressions if each.source == SOURCE_COMPOSER]
        matched, verdicts = judged(SceneImageTruth(scene), image, said)
        num_visible += int(matched.is_visible.sum())
        for each, right, target in zip(said, verdicts.is_right.tolist(), verdicts.target.tolist(), strict=True):
            rows.append((number, "+".join(each.target_mask_ids), each.kind, each.confidence, right, target))
    return _run_of(rows, sum(len(each.masks) for each in images), num_visible)


def everyday_run(of_world: str, condition: str, num_images: int) -> ComposedRun:
    """Compose and judge images of a world of everyday things, draws counted; parts are no objects to cover."""
    composer, world = composer_of(run_config("base-composed", [], [], is_taught=False)), World(_THINGS[of_world])
    rows, num_masks, num_things = list[tuple[Any, ...]](), 0, 0
    for number in range(num_images):
        drawn = world.draw(_FIRST[of_world] + number, CONDITIONS[condition])
        num_masks += len(drawn.image.masks)
        num_things += sum(each.is_whole for each in drawn.things)
        for each in (row for row in composer(drawn.image).expressions if row.source == SOURCE_COMPOSER):
            targets = [drawn.of_mask[mask_index(name)] for name in each.target_mask_ids]
            first = targets[0] if len(targets) == 1 else None
            target = -1 if first is None or not drawn.things[first].is_whole else first
            right = is_right(each.text, targets, drawn.things)
            rows.append(
                (number, f"{number}+{'+'.join(each.target_mask_ids)}", each.kind, each.confidence, right, target)
            )
    return _run_of(rows, num_masks, num_things)


def _run_of(rows: Sequence[tuple[Any, ...]], num_masks: int, num_visible: int) -> ComposedRun:
    image_of, masks, kinds, confidence, right_of, targets = zip(*rows, strict=True)
    _, mask = np.unique(masks, return_inverse=True)
    flags, numbers = np.array(right_of, np.bool_), np.array(image_of, np.int64)
    scores, missed = np.array(confidence, np.float64), np.zeros(numbers.max() + 1, np.int64)
    is_kept, kind = np.ones(len(rows), np.bool_), np.array(kinds, np.str_)
    pairs = PairPopulation(numbers, mask, scores, is_kept, flags, int(mask.max()) + 1, missed, kind)
    return ComposedRun(pairs, np.array(targets, np.int64), num_masks, num_visible)


def kept_by_rule(population: PairPopulation, judged: JudgedPairs, rows: Ints, target: float) -> Flags:
    """Return what `refilter --accuracy` keeps of the P pairs, (P,) bool, by one rater's verdicts on some rows."""
    score, kept = population.score[rows], np.zeros(len(population.score), np.bool_)
    sequences = [composed_sequence(judged, score, KeepRule(0.0), kinds) for kinds in composed_groups(judged)]
    searches, unchecked = [[(each.name, each.keeps) for each in rules] for rules in sequences], RaterChecks(0, 0)
    choices = choose_rules(judged, searches, target=target, checks=unchecked, start_errors=COMPOSED_START_ERRORS)
    for rules, choice in zip(sequences, choices, strict=True):
        for bound in () if choice.chosen is None else rules[choice.chosen].bounds:
            kept |= (population.kinds == bound.column) & (population.score > bound.bound)
    return kept


def best_chance(run: ComposedRun, target: float) -> float:
    """Return how often a rule would be shown that is known beforehand to be the best one of those that are of use.

    All verdicts are on what it keeps of one mask, and an exact test of nothing else has the whole 5 %.
    """
    scores, right = run.pairs.score, np.arange(DEFAULT_PAIRS + 1)
    least = right[stats.binom.sf(right - 1, DEFAULT_PAIRS, target) <= 0.05].min(initial=DEFAULT_PAIRS)
    of_rules = (run.figures(scores > bound) for bound in (0.0, *np.quantile(scores, np.linspace(0.05, 0.95, 19))))
    useful = [
        accuracy for accuracy, *given in of_rules if all(each >= low for each, low in zip(given, _LEAST, strict=True))
    ]
    return float(stats.binom.sf(least - 1, DEFAULT_PAIRS, max(useful, default=0.0)))


def audited(run: ComposedRun) -> list[dict[str, Any]]:
    """Return a row for each target: how often it is reached, how often a rule is chosen, what is kept of one mask."""
    rng, strata, population = np.random.default_rng(0), strata_of(run.pairs), run.pairs
    found: dict[float, list[tuple[float, ...]]] = {target: [] for target in TARGETS}
    for _ in range(NUM_AUDITS):
        sample = draw_sample(population, strata, rng)
        verdicts, _ = verdicts_of(population.is_right[sample.rows], 0.0, rng)
        judged_pairs = as_pairs(population, sample, verdicts)
        for target, outcomes in found.items():
            kept = kept_by_rule(population, judged_pairs, sample.rows, target)
            accuracy, *others = run.figures(kept)
            reached = (accuracy, float(population.is_right[kept].mean())) if kept.any() else ()
            outcomes.append((not any(each < target for each in reached), accuracy, *others))
    before = [round(each, 4) for each in run.figures(population.is_kept)]
    rows = []
    for target, outcomes in found.items():
        held, right, number, coverage = np.array(outcomes, np.float64).T
        row = {"target": target, "audits": NUM_AUDITS, "run": before, "all": round(population.accuracy, 4)}
        row |= {"held": round(float(held.mean()), 4), "chosen": round(float((number > 0).mean()), 4)}
        row["best"] = round(best_chance(run, target), 4)
        for name, values in (("accuracy", right[number > 0]), ("yield", number), ("coverage", coverage)):
            row[name] = [round(float(each), 4) for each in np.percentile(values, _PERCENTILES)] if len(values) else None
        rows.append(row)
    return rows


def runs_of(world: str, cache: Path, scenes: int) -> Iterator[tuple[str, ComposedRun]]:
    """Yield the runs of a world, by captioner or by condition."""
    if world in _THINGS:
        yield from ((name, everyday_run(world, name, scenes)) for name in CONDITIONS)
        return
    asked = SceneSet(Split.TEST, scenes, world, first=_FIRST_SCENE)
    for name in CAPTIONERS:
        images = annotated_scenes(Options(cache, processes=1), asked, setting_of(name))
        yield name, composed_run(asked.all(), images)


def main(
    out: Annotated[Path, typer.Option(help="Folder of annotated scenes, which are used again.")],
    world: Annotated[list[str] | None, typer.Option(help="Worlds of the scenes.")] = None,
    scenes: Annotated[int, typer.Option(min=2, help="Scenes of each run.")] = 100,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the rows here.")] = None,
    page: Annotated[Path | None, typer.Option(help="Put the table into this page, between its marks.")] = None,
) -> None:
    """Simulate the audits, and print a table: median, 5th and 95th percentile."""
    rows = []
    for each in world or ["fourth"]:
        for name, run in runs_of(each, out, scenes):
            facts = {"world": each, "captioner": name, "scenes": scenes, "first": _FIRST.get(each, _FIRST_SCENE)}
            rows += [{**facts, **row} for row in audited(run)]
    if json_path is not None:
        lines = ",\n".join(json.dumps(row) for row in rows)
        json_path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    if page is not None:
        put_into(page, table(rows), marks=(BEGIN, END))
    typer.echo(table(rows))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""

    def spread(found: list[float] | None) -> str:
        return "–" if found is None else f"{found[0]:.3f} [{found[1]:.3f}, {found[2]:.3f}]"

    headers = ("world", "captioner", "target", "the run, of one mask", "promise kept", "a rule is chosen", "at best")
    cells = [
        (
            *(str(row[name]) for name in ("world", "captioner", "target")),
            " / ".join(f"{each:.3f}" for each in row["run"]),
            *(f"{100 * row[name]:.1f} %" for name in ("held", "chosen", "best")),
            *(spread(row[name]) for name in ("accuracy", "yield", "coverage")),
        )
        for row in rows
    ]
    return markdown_table((*headers, "accuracy", "yield", "coverage"), cells)


if __name__ == "__main__":
    typer.run(main)
