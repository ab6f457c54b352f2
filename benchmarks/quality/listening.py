"""Beyond the paper: candidates ranked by one probability, with the captioner as its own listener and without."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from benchmarks.listening.measuring import measure
from benchmarks.quality import listening_tried
from benchmarks.quality.annotate import SceneSet
from benchmarks.quality.options import Options
from benchmarks.quality.parts import Part, Result
from benchmarks.quality.tables import cell, markdown_table, value
from synthworld.scenes import Split

_OTHER_WORLD: Final = "second"
_TITLES: Final = {
    "right": "every right candidate",
    "paper": "the paper's filter",
    "preset": "the shipped filter",
    "clip": "CLIP's scores weighted",
    "clip+vote": "… and the vote of a mask's draws",
    "clip+listener": "CLIP's scores and the listener",
    "all": "everything",
    "all+composer": "everything, and the composer",
    "all+looser composer": "everything, and a looser composer",
}
_STEPS: Final = {
    "clip - preset": "CLIP's scores weighted − the shipped filter",
    "clip+vote - clip": "… the vote on top",
    "clip+listener - clip": "… the listener on top, without the vote",
    "all - clip+vote": "… the listener on top of the vote",
    "all - preset": "everything − the shipped filter",
    "all+composer - all": "… the composer on top",
    "all+composer - preset": "everything and the composer − the shipped filter",
}
_FIGURES: Final = ("accuracy", "yield", "coverage")


def run(options: Options) -> Result:
    """Fit on development scenes; judge test scenes and those of another renderer."""
    asked = {
        "test": SceneSet(Split.TEST, options.scenes(300, 20)),
        _OTHER_WORLD: SceneSet(Split.TEST, options.scenes(100, 20), _OTHER_WORLD),
    }
    return measure(options, SceneSet(Split.DEVELOPMENT, options.scenes(200, 20)), asked).report


def section(result: Result) -> str:
    """Return the part's Markdown."""
    scenes = result["scenes"]
    intro = (
        "One probability an expression, of CLIP's scores, of how a mask's other draws agree with it (*vote*), and of "
        "the captioner as its own [listener](listener.md), ranks a mask's candidates; off in every preset. Weights and "
        f"bounds come from {scenes['development']} development scenes, for each coverage aimed at with a yield of at "
        "least 2; the composer's expressions are added to what is kept. "
        f"{scenes['test']} test scenes, SAM's own masks."
    )
    blocks = ["## Beyond the paper: a listener", intro]
    for aim in result["aims"]:
        blocks += [f"*Coverage of {aim['coverage']} aimed at:*", _rules(aim["test"]), _steps(aim["test"])]
    last = result["aims"][0]
    other = (
        f"Under the second renderer ({scenes[_OTHER_WORLD]} scenes), with the weights and bounds of the first and the "
        "lowest coverage aimed at:"
    )
    said = "\n".join(_readings(result))
    blocks += [other, _rules(last[_OTHER_WORLD]), _steps(last[_OTHER_WORLD]), said]
    return "\n\n".join([*blocks, *listening_tried.section(result)])


def _readings(result: Result) -> Iterator[str]:
    """Yield the points of a list that says what the tables come to."""
    first, last = result["aims"][0], result["aims"][-1]
    for aim, name in ((first, "all+composer"), (last, "all+looser composer")):
        values = {rule: aim["test"]["rules"][rule] for rule in (name, "preset")}
        own, shipped = (" / ".join(value(values[rule][figure], 2) for figure in _FIGURES) for rule in (name, "preset"))
        yield (
            f"- Accuracy / yield / coverage of {_TITLES[name]}, with {aim['coverage']} aimed at: **{own}**, where the "
            f"shipped filter has {shipped}."
        )
    covered = value(last["test"]["rules"]["right"]["coverage"], 2)
    yield (
        f"- No rule that chooses among the candidates covers more than {covered} of the objects: of the others nothing "
        "right was ever drawn. Places and relations reach some of them, and are right more often than what is chosen."
    )


def _rules(judged: Mapping[str, Any]) -> str:
    rules = judged["rules"]
    header = ["rule", "accuracy", "a mask", "coverage"]
    return markdown_table(header, ([title, *_cells(rules[name])] for name, title in _TITLES.items()))


def _steps(judged: Mapping[str, Any]) -> str:
    steps = judged["steps"]
    header = ["paired difference", "accuracy", "a mask", "coverage"]
    return markdown_table(header, ([title, *_cells(steps[name], sign="+")] for name, title in _STEPS.items()))


def _cells(figures: Mapping[str, Any], *, sign: str = "") -> Iterator[str]:
    return (cell(figures[name], sign=sign) for name in _FIGURES)


PART = Part("listening", run, section)
