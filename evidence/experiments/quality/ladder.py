"""The systems of the ablation, step by step, with thresholds chosen on development scenes, and their counts.

Systems are counted, and scores for thresholds read, chunk by chunk in a few processes. The part `ablation` reports
them: no threshold may see a test scene, and the systems of a setting share its candidates.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from evidence.experiments.oracle import candidates_of
from evidence.experiments.process_pool import run_jobs
from evidence.experiments.quality.annotated_scenes import (
    DISTINCTIVE,
    NUCLEUS,
    PAPER,
    PAPER_TAU,
    SHIPPED,
    SceneSet,
    Setting,
    annotate,
    annotated_chunk,
)
from evidence.experiments.quality.parts import Options, draw_generator
from pseudoris.schemas.shard import CaptionSample, ExpressionRecord, ShardImage
from pseudoris.synthworld.scene_truth import SceneImageTruth
from pseudoris.training.evaluation.truth import CandidateTable, count_image, match_image

Flags = npt.NDArray[np.bool_]
Column = Literal["uniqueness", "correctness", "distinctiveness"]
SAMPLING: Final = ("top_k", "top_p")


@dataclass(frozen=True)
class Everything:
    """Says every distinct candidate."""

    def __call__(self, image: ShardImage) -> Flags:
        """Return (R,) bool."""
        return np.ones(len(image.expressions), dtype=np.bool_)


@dataclass(frozen=True)
class Above:
    """Says what scores strictly above a threshold; where a mask is alone and has no such score, all of it."""

    column: Column
    threshold: float

    def __call__(self, image: ShardImage) -> Flags:
        """Return (R,) bool."""
        return ~(scores(image, self.column) <= self.threshold)


@dataclass(frozen=True)
class AnyOf:
    """Says so many of a mask's distinct candidates, drawn at random: no filter at the yield of one."""

    count: int
    seed: int = 0

    def __call__(self, image: ShardImage) -> Flags:
        """Return (R,) bool."""
        flags = np.zeros(len(image.expressions), dtype=np.bool_)
        rng = draw_generator(self.seed, int(hashlib.sha256(image.image_id.encode()).hexdigest()[:8], 16))
        targets = np.array([each.target_mask_ids[0] for each in image.expressions])
        for mask in image.masks:
            rows = np.flatnonzero(targets == mask.mask_id)
            flags[rng.permutation(rows)[: self.count]] = True
        return flags


Rule = Callable[[ShardImage], Flags]


@dataclass(frozen=True)
class Draws:
    """Which of the draws there are: a candidate that none of them gave does not exist.

    Attributes:
        decoders: `beam`, `top_k`, `top_p`; None for all.
    """

    decoders: tuple[str, ...] | None = None

    def holds(self, sample: CaptionSample) -> bool:
        """Return whether a draw is one of them."""
        return self.decoders is None or sample.decoder in self.decoders

    def of(self, image: ShardImage) -> ShardImage:
        """Return the image with these draws alone; the scores of a text do not depend on who drew it."""
        if self == ALL_DRAWS:
            return image
        left = (_with_samples(each, [s for s in each.samples if self.holds(s)]) for each in image.expressions)
        return replace(image, expressions=tuple(each for each in left if each.samples))


ALL_DRAWS: Final = Draws()


@dataclass(frozen=True)
class System:
    """One row of a table.

    Attributes:
        name: In results.
        title: For a person.
        setting: Who draws the candidates.
        rule: Which of them are said.
        bound: Which lower bound of a cosine the scores have, `annotate.PAPER` or `annotate.SHIPPED`.
        draws: Which draws there are.
    """

    name: str
    title: str
    rule: Rule = Everything()
    setting: Setting = DISTINCTIVE
    bound: str = SHIPPED
    draws: Draws = ALL_DRAWS

    def said(self, image: ShardImage) -> ShardImage:
        """Return an annotated image of `setting` and `bound` with what the system says marked as kept."""
        drawn = self.draws.of(image)
        marked = zip(drawn.expressions, self.rule(drawn).tolist(), strict=True)
        return replace(drawn, expressions=tuple(_marked(each, flag) for each, flag in marked))

    def on(self, setting: Setting) -> System:
        """Return the same of another setting's candidates."""
        return replace(self, setting=setting)


def scores(image: ShardImage, column: Column) -> npt.NDArray[np.float64]:
    """Return a score of an image's candidates, (R,) float64, NaN where a mask is alone and has none."""
    values = [getattr(each, column) for each in image.expressions]
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _with_samples(expression: ExpressionRecord, samples: Sequence[CaptionSample]) -> ExpressionRecord:
    return expression if len(samples) == len(expression.samples) else replace(expression, samples=tuple(samples))


def _marked(expression: ExpressionRecord, is_kept: bool) -> ExpressionRecord:
    return expression if expression.kept == is_kept else replace(expression, kept=is_kept)


Sums = dict[str, tuple[float, float]]
BOUNDS: Final = (PAPER, SHIPPED)
# What equal yield means in the 2 x 2: distinct expressions a mask.
EQUAL_YIELD: Final = 2
CURVE_YIELDS: Final = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 9.0, 14.0)
# Filters compared over all yields: name, setting, score, bound.
CURVES: Final[tuple[tuple[str, Setting, Column, str], ...]] = (
    ("uniqueness-paper", DISTINCTIVE, "uniqueness", PAPER),
    ("uniqueness-shipped", DISTINCTIVE, "uniqueness", SHIPPED),
    ("correctness", DISTINCTIVE, "correctness", PAPER),
    ("distinctiveness-paper", DISTINCTIVE, "distinctiveness", PAPER),
    ("distinctiveness-shipped", DISTINCTIVE, "distinctiveness", SHIPPED),
    ("nucleus-distinctiveness-shipped", NUCLEUS, "distinctiveness", SHIPPED),
)
_BEAM, _SAMPLED = Draws(("beam",)), Draws(SAMPLING)
# Why an expression is wrong, first reason that holds: its mask is no object; no sentence of the grammar; not true of
# its object; true of others too.
REASONS: Final = ("no object", "unreadable", "untrue", "ambiguous")
# Of the figures of `pseudoris.training.evaluation.truth`, those of a system's own expressions.
_KEPT: Final = "kept."
_APART: Final = ("difficulty.", "group.")
# The same for every system of a setting.
_SETTING_FIGURES: Final = ("masks.", "beam.accuracy", "sampling.accuracy", "sampling.distinct")


@dataclass(frozen=True)
class Thresholds:
    """Scores of the development scenes, read once a setting, bound and kind of draw."""

    options: Options
    scenes: SceneSet
    taus: dict[str, float]

    @classmethod
    def on(cls, options: Options, scenes: SceneSet) -> Thresholds:
        """Return those of development scenes; tau is the paper's and the configuration's."""
        return cls(options, scenes, {PAPER: PAPER_TAU, SHIPPED: DISTINCTIVE.config().filtering.tau})

    def table(self, setting: Setting, bound: str, draws: Draws = ALL_DRAWS) -> ScoreTable:
        """Return the scores of the development scenes."""
        return score_table(self.options, self.scenes, setting, bound, draws)


def ladder(thresholds: Thresholds) -> list[System]:
    """Return the steps: beams, nucleus, distinctive sampling, then each filter on all candidates of the latter.

    Uniqueness alone and correctness alone have the thresholds at which they keep, on development scenes, as many a
    mask as distinctiveness does at the rule's tau: a filter is then better by what it keeps, not by how little.
    """
    steps = [
        System("beam", "beam search", draws=_BEAM),
        System("nucleus", "own distribution (nucleus, top-k)", setting=NUCLEUS, draws=_SAMPLED),
        System("distinctive", "+ distinctive sampling", draws=_SAMPLED),
        System("candidates", "all candidates, beams too"),
    ]
    for bound in BOUNDS:
        table, tau = thresholds.table(DISTINCTIVE, bound), thresholds.taus[bound]
        wanted = table.yield_above("distinctiveness", tau)
        singles: tuple[Column, ...] = ("uniqueness", "correctness")
        rules = {column: table.threshold_at(column, wanted) for column in singles} | {"distinctiveness": tau}
        steps += [
            System(f"{bound}-{column}", f"+ {column} > {at:.4g}", Above(column, at), bound=bound)
            for column, at in rules.items()
        ]
    return [
        *steps,
        System("paper-uniqueness-1", "+ uniqueness > 1 (not matched)", Above("uniqueness", 1.0), bound=PAPER),
    ]


def square(thresholds: Thresholds) -> list[System]:
    """Return the 2 x 2 of sampling and filter, over what the samplers drew: at equal candidates, at equal yield."""
    return [
        system
        for name, setting in (("nucleus", NUCLEUS), ("distinctive", DISTINCTIVE))
        for system in _square_row(thresholds, name, setting)
    ]


def _square_row(thresholds: Thresholds, name: str, setting: Setting) -> list[System]:
    """One kind of sampling: without a filter, and under each bound's."""
    systems = [
        System(f"square-{name}-none-candidates", f"{name}, no filter", Everything(), setting, draws=_SAMPLED),
        System(f"square-{name}-none-yield", f"{name}, any two", AnyOf(EQUAL_YIELD), setting, draws=_SAMPLED),
    ]
    for bound in BOUNDS:
        at = thresholds.table(setting, bound, _SAMPLED).threshold_at("distinctiveness", EQUAL_YIELD)
        for kind, rule in (("candidates", thresholds.taus[bound]), ("yield", at)):
            title = f"{name}, distinctiveness > {rule:.4g}"
            above = Above("distinctiveness", rule)
            systems.append(System(f"square-{name}-{bound}-{kind}", title, above, setting, bound, _SAMPLED))
    return systems


def curves(thresholds: Thresholds) -> list[System]:
    """Return each filter at several yields, its thresholds those of the development scenes."""
    return [
        System(f"curve-{name}-{wanted:g}", f"{column} > {at:.3g}", Above(column, at), setting, bound)
        for name, setting, column, bound in CURVES
        for table in (thresholds.table(setting, bound),)
        for wanted in CURVE_YIELDS
        for at in (table.threshold_at(column, wanted),)
    ]


def on_true_masks(systems: Sequence[System]) -> list[System]:
    """Return the systems with the same rules on the truth's masks."""
    return [system.on(system.setting.on_true_masks()) for system in systems]


@dataclass(frozen=True)
class ScoreTable:
    """The scores of all candidates of some scenes, NaN where a mask is alone, and how many masks there are."""

    columns: Mapping[Column, np.ndarray]
    num_masks: int

    def threshold_at(self, column: Column, yield_a_mask: float) -> float:
        """Return the threshold above which about so many candidates a mask score.

        Candidates without a score are kept at any threshold, and count. Asked for more than there are, it is below all
        scores.
        """
        values = self.columns[column]
        known = np.sort(values[np.isfinite(values)])[::-1]
        wanted = round(yield_a_mask * self.num_masks) - (len(values) - len(known))
        if wanted >= len(known):
            return 0.0
        return float(known[max(wanted, 0)])

    def yield_above(self, column: Column, threshold: float) -> float:
        """Return how many candidates a mask score above a threshold."""
        return float((~(self.columns[column] <= threshold)).sum() / self.num_masks)


@lru_cache(maxsize=32)
def score_table(options: Options, scenes: SceneSet, setting: Setting, bound: str, draws: Draws) -> ScoreTable:
    """Return the scores of the candidates of some draws; annotates what is missing."""
    annotate(options, scenes, (setting,))
    names: tuple[Column, ...] = ("uniqueness", "correctness", "distinctiveness")
    chunks = (annotated_chunk(options.out, scenes, chunk, setting, bound) for chunk in scenes.chunks)
    images = [draws.of(image) for chunk in chunks for image in chunk]
    columns = {name: np.concatenate([scores(image, name) for image in images]) for name in names}
    return ScoreTable(columns, sum(len(image.masks) for image in images))


def count_systems(options: Options, scenes: SceneSet, systems: Sequence[System]) -> list[Sums]:
    """Return each scene's sums, by `<system>/<figure>` and `<setting>:<figure>`; annotates what is missing."""
    settings = tuple(dict.fromkeys(system.setting for system in systems))
    annotate(options, scenes, settings)
    count_chunk = partial(_count_chunk, options.out, scenes, tuple(systems))
    shown = f"counting {scenes.world} {scenes.split} scenes"
    chunks = run_jobs(count_chunk, scenes.chunks, options.processes, shown=shown)
    return [sums for chunk in chunks for sums in chunk]


def _count_chunk(out: Path, scenes: SceneSet, systems: tuple[System, ...], chunk: range) -> list[Sums]:
    truths = [SceneImageTruth(scenes.scene(position)) for position in chunk]
    counts: list[dict[str, tuple[float, float]]] = [{} for _ in truths]
    by_file: dict[tuple[Setting, str], list[System]] = defaultdict(list)
    for system in systems:
        by_file[system.setting, system.bound].append(system)
    seen: set[str] = set()
    for (setting, bound), own in by_file.items():
        images = annotated_chunk(out, scenes, chunk, setting, bound)
        for truth, image, found in zip(truths, images, counts, strict=True):
            if setting.name not in seen:
                found.update(_setting_sums(truth, image, setting.name))
            for system in own:
                found.update(count_system(truth, image, system))
        seen.add(setting.name)
    return list(counts)


def count_system(truth: SceneImageTruth, image: ShardImage, system: System) -> Sums:
    """Return the sums of one system on one image, by `<system>/<figure>`."""
    said = system.said(image)
    # The others of its candidates count for no figure of what is said.
    said = replace(said, expressions=tuple(each for each in said.expressions if each.kept))
    candidates = candidates_of(said, lambda each: True)
    found = count_image(truth, candidates)
    own = {name.removeprefix(_KEPT): pair for name, pair in found.items() if name.startswith((_KEPT, *_APART))}
    return {f"{system.name}/{name}": pair for name, pair in (own | count_reasons(truth, candidates)).items()}


def count_reasons(truth: SceneImageTruth, said: CandidateTable) -> Sums:
    """Return by `wrong.<reason>` how many of an image's expressions, each of one mask, are wrong for it."""
    matched = match_image(truth, said).object_of_mask
    wrong = dict.fromkeys(REASONS, 0.0)
    for text, (target,) in zip(said.texts, said.targets, strict=True):
        number = matched.get(target)
        referents = truth.referents(text)
        if number is None:
            wrong["no object"] += 1
        elif referents is None:
            wrong["unreadable"] += 1
        elif number not in referents:
            wrong["untrue"] += 1
        elif len(referents) > 1:
            wrong["ambiguous"] += 1
    return {f"wrong.{reason}": (count, float(len(said.texts))) for reason, count in wrong.items()}


def _setting_sums(truth: SceneImageTruth, image: ShardImage, name: str) -> Sums:
    found = count_image(truth, candidates_of(image, lambda each: True))
    return {f"{name}:{figure}": pair for figure, pair in found.items() if figure.startswith(_SETTING_FIGURES)}
