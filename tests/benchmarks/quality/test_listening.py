"""The part about the listener, from figures to the page."""

from __future__ import annotations

from typing import Any

from benchmarks.quality import listening

RULES = ("right", "paper", "preset", "clip", "clip+vote", "clip+listener", "all")
RULES += ("all+composer", "all+looser composer")
STEPS = ("clip - preset", "clip+vote - clip", "clip+listener - clip", "all - clip+vote", "all - preset")
STEPS += ("all+composer - all", "all+composer - preset")


def _figures(accuracy: float) -> dict[str, Any]:
    values = {"accuracy": accuracy, "yield": 2.0, "coverage": None}
    intervals = {"accuracy": [accuracy - 0.01, accuracy + 0.01], "yield": [1.9, 2.1], "coverage": [None, None]}
    return {name: {"value": value, "interval": intervals[name]} for name, value in values.items()}


def _judged(accuracy: float) -> dict[str, Any]:
    return {
        "rules": {name: _figures(accuracy + at / 100) for at, name in enumerate(RULES)},
        "steps": {name: _figures(at / 100) for at, name in enumerate(STEPS)},
    }


RESULT = {
    "scenes": {"development": 200, "test": 300, "second": 100},
    "aims": [{"coverage": aim, "test": _judged(aim), "second": _judged(aim - 0.1)} for aim in (0.5, 0.6)],
}


def test_each_aim_has_its_rules_and_steps_and_the_other_world_those_of_the_first() -> None:
    text = listening.section(RESULT)
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]

    assert [len(table) - 2 for table in tables] == [9, 7, 9, 7, 9, 7]
    assert "| the shipped filter | 0.520 [0.510, 0.530] | 2.000 [1.900, 2.100] | – |" in tables[0]
    assert "| … the listener on top of the vote | +0.030 [+0.020, +0.040] | +2.000 [+1.900, +2.100] | – |" in tables[3]
    assert "| the shipped filter | 0.420 [0.410, 0.430] | 2.000 [1.900, 2.100] | – |" in tables[4]
    assert "aimed at: **0.57 / 2.00 / –**, where the shipped filter has 0.52 / 2.00 / –." in text
    assert "everything, and a looser composer, with 0.6 aimed at: **0.68" in text
