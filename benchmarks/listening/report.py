"""What is kept by each rule, counted on test scenes, with intervals over scenes and paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.table import Table

from benchmarks.listening.collecting import SceneRows
from benchmarks.listening.rules import Rule
from benchmarks.quality.annotate import PAPER_TAU
from benchmarks.quality.tables import as_json
from schemas.keeping import Flags, is_above
from training.evaluation.bootstrap import ImageBootstrap
from training.evaluation.figures import figure_text

FIGURES: Final = ("accuracy", "yield", "coverage")


def by_tau(scene: SceneRows, tau: float) -> Flags:
    """Return what the paper's filter keeps, (T,) bool."""
    return is_above(scene.rated.scores["distinctiveness"], tau)


def bootstrap(scenes: Sequence[SceneRows], tau: float, rules: Mapping[str, Rule]) -> ImageBootstrap:
    """Return the figures of each rule over the same resamples of scenes, named `<rule>.<figure>`.

    Args:
        scenes: Test scenes.
        tau: Of the preset's own filter, the rule `preset`; beside it stand `paper`, and `right`: every right candidate.
        rules: By name.
    """

    def sums(scene: SceneRows) -> dict[str, tuple[float, float]]:
        found = {
            "right": scene.sums(scene.is_right),
            "paper": scene.sums(by_tau(scene, PAPER_TAU)),
            "preset": scene.sums(by_tau(scene, tau)),
            **{name: rule.sums(scene) for name, rule in rules.items()},
        }
        return {f"{name}.{key}": pair for name, each in found.items() for key, pair in each.items()}

    return ImageBootstrap([sums(scene) for scene in scenes])


def rule_tree(found: ImageBootstrap, name: str) -> dict[str, Any]:
    """Return a rule's figures as JSON values, each with its interval."""
    return {figure: as_json(found.ratio(f"{name}.{figure}")) for figure in FIGURES}


def step_tree(found: ImageBootstrap, better: str, worse: str) -> dict[str, Any]:
    """Return by how much a rule exceeds another, paired over scenes, as JSON values."""
    return {figure: as_json(found.difference(f"{better}.{figure}", f"{worse}.{figure}")) for figure in FIGURES}


def table_of(title: str, found: ImageBootstrap, names: Sequence[str], steps: Sequence[tuple[str, str]]) -> Table:
    """Return rules and paired steps as a printed table."""
    table = Table(title=title)
    table.add_column("rule")
    for figure in FIGURES:
        table.add_column(figure, justify="right")
    for name in names:
        table.add_row(name, *(figure_text(found.ratio(f"{name}.{figure}"), 3) for figure in FIGURES))
    table.add_section()
    for better, worse in steps:
        cells = (
            figure_text(found.difference(f"{better}.{figure}", f"{worse}.{figure}"), 3, sign="+") for figure in FIGURES
        )
        table.add_row(f"{better} − {worse}", *cells)
    return table
