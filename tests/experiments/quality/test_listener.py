"""The part about the listener, from figures to the page."""

from __future__ import annotations

from typing import Any

from experiments.quality import listener

RULES = ("right", "paper", "preset", "clip", "clip+vote", "clip+listener", "all")
RULES += ("clip+vote+weighing draws", "all+weighing composer")
STEPS = ("clip - preset", "clip+vote - clip", "clip+listener - clip", "all - clip+vote", "all - preset")
STEPS += ("all+weighing composer - clip+vote+weighing draws", "all+weighing composer - preset")


def _figure(value: float | None) -> dict[str, Any]:
    return {"value": value, "low": value and value - 0.01, "high": value and value + 0.01}


def _figures(accuracy: float) -> dict[str, Any]:
    return {"accuracy": _figure(accuracy), "yield": _figure(2.0), "coverage": _figure(None)}


def _judged(accuracy: float) -> dict[str, Any]:
    return {
        "rules": {name: _figures(accuracy + at / 100) for at, name in enumerate(RULES)},
        "steps": {name: _figures(at / 100) for at, name in enumerate(STEPS)},
    }


def _label(rule: str, labels: str, scenes: int, accuracy: float, least: float) -> dict[str, Any]:
    figures = {
        "accuracy": {"mean": accuracy, "std": 0.03 if 0 < scenes < 200 else None, "least": least},
        "yield": {"mean": 2.0, "std": 0.5 if 0 < scenes < 200 else None, "least": 1.0},
        "coverage": {"mean": 0.6, "std": None, "least": 0.5},
    }
    row = {"rule": rule, "labels": labels, "scenes": scenes, "draws": 10, "candidates_a_scene": 120.5}
    return {**row, "test": figures, "second": figures}


def _aim(coverage: float) -> dict[str, Any]:
    bounds = {
        name: {"min_confidence": 1 - coverage, "max_rank": 3} for name in RULES if "all" in name or "weighing" in name
    }
    # The same for every coverage.
    bounds["clip+vote"] = {"min_confidence": 0.64, "max_rank": 4}
    worlds = {"test": coverage, "second": coverage - 0.1, "shifted": coverage - 0.2}
    return {"coverage": coverage, "yield": 2.0, "bounds": bounds, **{name: _judged(at) for name, at in worlds.items()}}


def _result(*, least_of_fifty: float = 0.85) -> dict[str, Any]:
    return {
        "scenes": {"development": 200, "test": 300, "second": 100, "shifted": 100},
        "aims": [_aim(0.55), _aim(0.65), _aim(0.8)],
        "cost": {
            "scenes": 12,
            "listeners": {
                "one crop kind": {"share_of_captioning": 0.46},
                "two crop kinds": {"share_of_captioning": 0.7},
            },
        },
        "composer_weights": [_label("", "oracle", count, 0.9, 0.88) for count in (5, 200)],
        "labels": [
            _label("no labels", "none", 0, 0.83, 0.83),
            _label("all", "oracle", 5, 0.84, 0.7),
            _label("all", "oracle", 50, 0.86, least_of_fifty),
            _label("all", "oracle", 200, 0.86, 0.86),
            _label("all", "sentences", 50, 0.77, 0.7),
        ],
    }


RESULT = _result()


def test_one_aim_has_all_rules_and_steps_and_each_its_bounds_and_what_they_come_to_in_every_world() -> None:
    text = listener.section(RESULT)
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]

    # Of bounds: one row of those that all aims share, three of each other rule.
    assert [len(table) - 2 for table in tables] == [9, 7, 1 + 3 * 3, 5, 2]
    assert "| the shipped filter | 0.670 [0.660, 0.680] | 2.000 [1.990, 2.010] | – |" in tables[0]
    assert "| … the listener on top of the vote | +0.030 [+0.020, +0.040] | +2.000 [+1.990, +2.010] | – |" in tables[1]
    row = next(line for line in tables[2] if line.startswith("| everything, and the composer | 0.55 |"))
    assert row.endswith("| > 0.45, rank ≤ 3 | 0.63 / 2.00 / – | 0.53 / 2.00 / – | 0.43 / 2.00 / – |")
    assert "everything, and the composer, with 0.8 aimed at: **0.88 / 2.00 / –**, where the shipped filter has" in text
    assert "shipped filter has 0.82 / 2.00 / –; second renderer: 0.78 / 2.00 / –; shifted world: 0.68" in text
    assert "captioning takes +46% of CPU time with one crop kind listened to, and +70% with the two" in text


def test_the_page_says_how_many_labels_suffice_and_where_none_are_better() -> None:
    text = listener.section(RESULT)
    assert "| everything | the oracle's | 5 | 0.840 ± 0.030 | 2.000 ± 0.500 | 0.600 |" in text
    assert "| five scores alike | none | – | 0.830 | 2.000 | 0.600 |" in text
    assert "- 50 scenes suffice for accuracy: no draw of so many was less accurate by more than 0.02; " in text
    assert "the least coverage was 0.50." in text
    assert "no label is the better choice" in text
    assert "No smaller number of scenes gave weights" in listener.section(_result(least_of_fifty=0.8))
