"""What the ablation says, in words around its own figures: where the paper's order holds, where not, and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jinja2

from benchmarks.quality.parts import Result
from benchmarks.quality.tables import cell, percent, value


def says(result: Result) -> str:
    """Return the findings as Markdown; the text is `texts/ablation.md.j2`."""
    loader = jinja2.PackageLoader("benchmarks.quality", "texts")
    # Markdown of our own figures: nothing of a user's stands in it.
    environment = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, autoescape=False)
    return environment.get_template("ablation.md.j2").render(_words(result)).strip()


def verdict(difference: dict[str, Any]) -> str:
    """Return whether a claimed order holds: the interval lies above zero, below it, or on both sides."""
    if difference["low"] is None:
        return "–"
    if difference["low"] > 0:
        return "holds"
    return "is reversed" if difference["high"] < 0 else "undecided"


def _words(result: Result) -> dict[str, Callable[..., str]]:
    """What the text may ask for."""
    systems, steps = result["test"]["systems"], result["test"]["differences"]
    groups = systems["shipped-distinctiveness"]["groups"]

    def gain(name: str, figure: str = "accuracy") -> str:
        return cell(steps[name][figure], sign="+")

    return {
        "gain": gain,
        "square": lambda name: gain(f"square-distinctive-{name} - square-nucleus-{name}"),
        "order": lambda name: verdict(steps[name]["accuracy"]),
        "wrong": lambda name, reason: percent(systems[name]["wrong"][reason]),
        "accuracy": lambda name: value(systems[name]["accuracy"], 2),
        "yield_of": lambda name, digits=1: value(systems[name]["yield"], digits),
        "coverage": lambda name: value(systems[name]["coverage"], 2),
        "easy": lambda name: _easy_share(systems[name]),
        "at": lambda name, part: value(systems[name]["difficulty"].get(part), 2),
        "second": lambda name: cell(result["default_minus_second"][f"{name}/accuracy"], sign="+"),
        "group": lambda name: value(groups.get(name), 2),
    }


def _easy_share(system: dict[str, Any]) -> str:
    """Of what is kept of objects, the share of those without another of their category."""
    counts = {part: each["expressions"] for part, each in system["difficulty"].items() if part != "no object"}
    total = sum(counts.values())
    return f"{100 * counts.get('0', 0) / total:.0f} %" if total else "–"
