"""Beyond the paper: candidates ranked by one probability, with the captioner as its own listener and without."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from benchmarks.listening.collecting import COMPOSERS
from benchmarks.listening.cost import measure_cost
from benchmarks.listening.measuring import COMPARED, measure
from benchmarks.measure import digest_of
from benchmarks.quality import listening_tried
from benchmarks.quality.annotate import SceneSet
from benchmarks.quality.options import Options
from benchmarks.quality.parts import Part, Result
from benchmarks.quality.tables import TRIPLE, cell, markdown_table, triple, value
from synthworld.scenes import Split

# Other textures, palette and noise; and those with another mix of categories. Nothing is fitted or chosen there.
_OTHER_WORLDS: Final = {"second": "second renderer", "shifted": "shifted world"}
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
    "clip+vote+weighing draws": "CLIP's scores and the vote, and the composer by probability",
    "all+weighing composer": "everything, and the composer by probability",
}
_STEPS: Final = {
    "clip - preset": "CLIP's scores weighted − the shipped filter",
    "clip+vote - clip": "… the vote on top",
    "clip+listener - clip": "… the listener on top, without the vote",
    "all - clip+vote": "… the listener on top of the vote",
    "all - preset": "everything − the shipped filter",
    "all+composer - all": "… the composer on top",
    "all+composer - preset": "everything and the composer − the shipped filter",
    "all+weighing composer - all+composer": "… the composer by probability, not by shares",
    "all+weighing composer - clip+vote+weighing draws": "… the listener, where the composer goes by probability",
    "all+weighing composer - preset": "everything and the composer by probability − the shipped filter",
}
_WORLDS: Final = ("test", *_OTHER_WORLDS)
_BOUNDED: Final = {
    "clip+vote": "CLIP's scores and the vote",
    **{name: _TITLES[name] for name in list(_TITLES) if name.startswith("all") or name == "clip+vote+weighing draws"},
}


def run(options: Options) -> Result:
    """Fit on development scenes; judge test scenes and those of another renderer."""
    asked = {
        "test": SceneSet(Split.TEST, options.scenes(300, 20)),
        **{world: SceneSet(Split.TEST, options.scenes(100, 20), world) for world in _OTHER_WORLDS},
    }
    found = measure(options, SceneSet(Split.DEVELOPMENT, options.scenes(200, 20)), asked).report
    return {**found, "cost": measure_cost(options.scenes(12, 2), rounds=3)}


def section(result: Result) -> str:
    """Return the part's Markdown."""
    scenes = result["scenes"]
    intro = (
        "One probability an expression, of CLIP's scores, of how a mask's other draws agree with it (*vote*), and of "
        "the captioner as its own [listener](listener.md), ranks a mask's candidates; off in every preset. Weights and "
        f"bounds come from {scenes['development']} development scenes, for each coverage aimed at with a yield of at "
        "least 2. *Everything* is all of these; the composer's expressions are added to what is kept, those of the "
        "*looser* one ask for less evidence (`min_noun: 0.6`, `min_word: 0.3`). *By probability*: "
        "[`composing.posterior`](composing.md#by-probability), of what the listener says beside everything, of draws "
        "alone beside CLIP's scores and the vote, where nobody listens. "
        f"{scenes['test']} test scenes, SAM's own masks; at a coverage of {COMPARED[0]} aimed at:"
    )
    (shown,) = (aim for aim in result["aims"] if (aim["coverage"], aim["yield"]) == COMPARED)
    others = ", ".join(f"{scenes[world]} scenes of the {title}" for world, title in _OTHER_WORLDS.items())
    bounds = (
        "Bounds for each coverage aimed at, and accuracy / yield / coverage under them; also on "
        f"{others}, with the same weights and bounds:"
    )
    blocks = ["## Beyond the paper: a listener", intro, _rules(shown["test"]), _steps(shown["test"])]
    blocks += [bounds, _bounds(result["aims"]), "\n".join(_readings(result))]
    return "\n\n".join([*blocks, *listening_tried.section(result)])


def _bounds(aims: Sequence[Mapping[str, Any]]) -> str:
    """A row for each aim and rule, but rules that have the bounds of the aim before."""
    rows, before = [], None
    for name in _BOUNDED:
        for aim in aims:
            bounds = aim["bounds"][name]
            if bounds == before:
                continue
            before = bounds
            condition = f"> {bounds['min_confidence']:.2f}, rank ≤ {bounds['max_rank']}"
            rows.append([_BOUNDED[name], f"{aim['coverage']}", condition, *(_three(aim[w], name) for w in _WORLDS)])
    header = ["rule", "coverage aimed at", "confidence", "test", *_OTHER_WORLDS.values()]
    return markdown_table(header, rows)


def _three(judged: Mapping[str, Any], name: str) -> str:
    return triple(judged["rules"][name])


def _readings(result: Result) -> Iterator[str]:
    """Yield the points of a list that says what the tables come to."""
    first, last = result["aims"][0], result["aims"][-1]
    chosen = ((first, "all+composer"), (last, "all+looser composer"), (last, "all+weighing composer"))
    for aim, name in (*chosen, (last, "clip+vote+weighing draws")):
        yield (
            f"- Accuracy / yield / coverage of {_TITLES[name]}, with {aim['coverage']} aimed at: "
            f"**{_three(aim['test'], name)}**, where the shipped filter has {_three(aim['test'], 'preset')}; "
            + "; ".join(f"{title}: {_three(aim[world], name)}" for world, title in _OTHER_WORLDS.items())
            + "."
        )
    covered = value(last["test"]["rules"]["right"]["coverage"], 2)
    cost = {name: f"{each['share_of_captioning']:+.0%}" for name, each in result["cost"]["listeners"].items()}
    yield (
        f"- What it costs: captioning takes {cost['one crop kind']} of CPU time with one crop kind listened to, and "
        f"{cost['two crop kinds']} with the two that these figures are of ({result['cost']['scenes']} scenes; "
        "captioning is about a third of the three stages of `tiny`). Weights and the vote are sums over what was "
        "drawn; the composer's milliseconds stand above."
    )
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
    return (cell(figures[name], sign=sign) for name in TRIPLE)


def _settings(options: Options) -> Mapping[str, Any]:
    """Return what composes: docs/listener-composer.yaml is another file than the preset."""
    return {"composers": {name: digest_of(config.model_dump(mode="json")) for name, config in COMPOSERS.items()}}


PART = Part("listening", run, section, settings=_settings)
