"""The systems of the ablation, step by step, with thresholds chosen on development scenes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.quality.annotate import DISTINCTIVE, NUCLEUS, PAPER, PAPER_TAU, SHIPPED, SceneSet, Setting
from benchmarks.quality.counting import ScoreTable, score_table
from benchmarks.quality.options import Options
from benchmarks.quality.systems import ALL_DRAWS, SAMPLING, Above, AnyOf, Column, Draws, Everything, System

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
        _at_yield(f"curve-{name}-{wanted:g}", column, table.threshold_at(column, wanted), setting, bound)
        for name, setting, column, bound in CURVES
        for table in (thresholds.table(setting, bound),)
        for wanted in CURVE_YIELDS
    ]


def _at_yield(name: str, column: Column, at: float, setting: Setting, bound: str) -> System:
    return System(name, f"{column} > {at:.3g}", Above(column, at), setting, bound)


def on_true_masks(systems: Sequence[System]) -> list[System]:
    """Return the systems with the same rules on the truth's masks."""
    return [system.on(system.setting.on_true_masks()) for system in systems]
