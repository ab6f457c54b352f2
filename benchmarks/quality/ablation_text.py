"""What the ablation says, in words around its own figures: where the paper's order holds, where not, and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.quality.parts import Result
from benchmarks.quality.tables import cell, is_above_zero, is_below_zero, is_reversed_beside, percent, value
from benchmarks.quality.templates import render


def says(result: Result) -> str:
    """Return the findings as Markdown; the text is `texts/ablation.md.j2`."""
    return render("ablation", _words(result))


def verdict(difference: dict[str, Any]) -> str:
    """Return whether a claimed order holds: the interval lies above zero, below it, or on both sides."""
    if difference["low"] is None:
        return "–"
    if is_above_zero(difference):
        return "holds"
    return "is reversed" if is_below_zero(difference) else "undecided"


def _words(result: Result) -> dict[str, Callable[..., str | bool]]:
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
        "by_difficulty": lambda name, part: cell(result["test"]["by_difficulty"][name].get(part), sign="+"),
        "reversed_beside": lambda name: is_reversed_beside(result["test"]["by_difficulty"][name]),
        "a_mask": lambda name, reason: _a_mask(systems[name], systems[name]["wrong"][reason]),
        "right_a_mask": lambda name: _a_mask(systems[name], systems[name]["accuracy"]),
        "at": lambda name, part: value(systems[name]["difficulty"].get(part), 2),
        "second": lambda name: cell(result["default_minus_second"][f"{name}/accuracy"], sign="+"),
        "second_yield": lambda name: value(result["second"]["systems"][name]["yield"], 2),
        "condition": lambda name: systems[name]["title"].removeprefix("+ "),
        "group": lambda name: value(groups.get(name), 2),
    }


def _a_mask(system: dict[str, Any], share: dict[str, float]) -> str:
    """A share of what a system keeps, as a number a mask."""
    return f"{share['value'] * system['yield']['value']:.2f}"


def _easy_share(system: dict[str, Any]) -> str:
    """Of what is kept of objects, the share of those without another of their category."""
    counts = {part: each["expressions"] for part, each in system["difficulty"].items() if part != "no object"}
    total = sum(counts.values())
    return f"{100 * counts.get('0', 0) / total:.0f} %" if total else "–"
