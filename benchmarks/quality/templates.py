"""Texts of the page that stand around figures of its parts: `texts/*.md.j2`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import jinja2

from benchmarks.quality.parts import Result
from benchmarks.quality.tables import TRIPLE, cell, is_reversed_beside, triple, triple_of_means

# Aimed at: accuracy, yield, coverage, of one rule.
_GOAL: Final = (0.95, 2.0, 0.8)
_RULE: Final = "all+weighing composer"


def render(name: str, values: Mapping[str, Any]) -> str:
    """Return a text with its figures.

    Raises:
        jinja2.UndefinedError: It asks for something that is not in `values`.
    """
    loader = jinja2.PackageLoader("benchmarks.quality", "texts")
    # Markdown of our own figures: nothing of a user's stands in it.
    environment = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, autoescape=False)
    return environment.get_template(f"{name}.md.j2").render(values).strip()


def frame(results: Mapping[str, Result]) -> tuple[str, str]:
    """Return what stands above all parts and below them; what speaks of a part is left out where it has no result."""
    values = _values({name: results.get(name) for name in ("ablation", "listening", "students")})
    return render("head", values), render("tail", values)


def _values(parts: dict[str, Result | None]) -> dict[str, Any]:
    """What the texts may ask for."""
    ablation, listening, students = (parts[name] or {} for name in ("ablation", "listening", "students"))

    def rule(coverage: float, name: str, world: str = "test") -> Mapping[str, Any]:
        (aim,) = (aim for aim in listening["aims"] if aim["coverage"] == coverage)
        found: Mapping[str, Any] = aim[world]["rules"][name]
        return found

    def share(name: str) -> str:
        arms = students["arms"]
        return f"{arms[name]['miou']['mean'] / arms['truth']['miou']['mean']:.0%}"

    return {
        **parts,
        "rule": rule,
        "share": share,
        "three": triple,
        "whole": cell,
        "gap": lambda name: cell(ablation["default_minus_second"][f"{name}/accuracy"]),
        "is_uniqueness_better": bool(ablation)
        and is_reversed_beside(ablation["test"]["by_difficulty"]["shipped-distinctiveness - shipped-uniqueness"]),
        "unlabelled": _unlabelled(listening),
        "is_goal_reached": _is_goal_reached(listening),
    }


def _unlabelled(listening: Result) -> str:
    rows = (row["test"] for row in listening.get("labels", ()) if row["labels"] == "none")
    return next(map(triple_of_means, rows), "")


def _is_goal_reached(listening: Result) -> bool:
    """Whether the rule that is made for it has accuracy, yield and coverage at once, on test scenes."""
    found = [aim["test"]["rules"][_RULE] for aim in listening.get("aims", ()) if aim["coverage"] == _GOAL[-1]]
    return any(
        all(figures[name]["value"] >= least for name, least in zip(TRIPLE, _GOAL, strict=True)) for figures in found
    )
