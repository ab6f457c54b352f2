"""The part `listening`, beyond the paper: candidates ranked by one probability, with a listener and without.

The captioner is its own listener. The section also says how many labels the weights need.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from benchmarks.listener_cost import measure_cost
from benchmarks.measurement import digest_of
from experiments.listener.judged_scenes import COMPOSERS, settings_of
from experiments.listener.listener_gain import COMPARED, measure
from experiments.quality.annotated_scenes import SceneSet
from experiments.quality.markdown_cells import TRIPLE, cell, markdown_table, triple, triple_of_means, value
from experiments.quality.parts import Options, Part, Result
from pseudoris.synthworld.scenes import Split

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
    "clip+vote+weighing draws": "CLIP's scores and the vote, and the composer",
    "all+weighing composer": "everything, and the composer",
}
_STEPS: Final = {
    "clip - preset": "CLIP's scores weighted − the shipped filter",
    "clip+vote - clip": "… the vote on top",
    "clip+listener - clip": "… the listener on top, without the vote",
    "all - clip+vote": "… the listener on top of the vote",
    "all - preset": "everything − the shipped filter",
    "all+weighing composer - clip+vote+weighing draws": "… the listener, with the composer",
    "all+weighing composer - preset": "everything and the composer − the shipped filter",
}
_WORLDS: Final = ("test", *_OTHER_WORLDS)
_BOUNDED: Final = {
    "clip+vote": "CLIP's scores and the vote",
    **{name: _TITLES[name] for name in list(_TITLES) if name.startswith("all") or name == "clip+vote+weighing draws"},
}
_RULES: Final = {"clip+vote": "CLIP's scores and the vote", "all": "everything"}
_LABELS: Final = {"none": "none", "oracle": "the oracle's", "sentences": "simulated annotators' sentences"}


def run(options: Options) -> Result:
    """Fit on development scenes; judge test scenes and those of another renderer."""
    asked = {
        "test": SceneSet(Split.TEST, options.scenes(300, 20)),
        **{world: SceneSet(Split.TEST, options.scenes(100, 20), world) for world in _OTHER_WORLDS},
    }
    found = measure(options, SceneSet(Split.DEVELOPMENT, options.scenes(200, 20)), asked)
    return {**found, "cost": measure_cost(options.scenes(12, 2), rounds=3)}


def section(result: Result) -> str:
    """Return the part's Markdown."""
    scenes = result["scenes"]
    intro = (
        "One probability an expression, of CLIP's scores, of how a mask's other draws agree with it (*vote*), and of "
        "the captioner as its own [listener](listener.md), ranks a mask's candidates; off in every preset. Weights and "
        f"bounds come from {scenes['development']} development scenes, for each coverage aimed at with a yield of at "
        "least 2. *Everything* is all of these. The expressions of the [composer](composing.md) are added to what is "
        "kept; it reads what the listener says beside everything, and draws alone beside CLIP's scores and the vote. "
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
    return "\n\n".join([*blocks, *_labels(result)])


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
    last = result["aims"][-1]
    for name in ("all+weighing composer", "clip+vote+weighing draws"):
        yield (
            f"- Accuracy / yield / coverage of {_TITLES[name]}, with {last['coverage']} aimed at: "
            f"**{_three(last['test'], name)}**, where the shipped filter has {_three(last['test'], 'preset')}; "
            + "; ".join(f"{title}: {_three(last[world], name)}" for world, title in _OTHER_WORLDS.items())
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


def _labels(result: Result) -> Iterator[str]:
    rows = [[*_named(row), *_spread(row["test"]), *_spread(row["second"])] for row in result["labels"]]
    worlds = ("test", "second renderer")
    header = ["weighed", "labels", "scenes", *(f"{figure}, {world}" for world in worlds for figure in TRIPLE)]
    yield "### How many labels it needs"
    known = next(row for row in result["labels"] if row["labels"] == "oracle")
    yield (
        "Weights and bounds from a few development scenes, aiming as above, judged on all test scenes: mean ± standard "
        f"deviation of {known['draws']} draws of scenes. A scene has {known['candidates_a_scene']:.0f} candidates. "
        "*None*: no verdict is looked at; log-uniqueness, correctness, vote, listener and truth count alike, in "
        "standard deviations, with the bound that keeps two a mask, each world by its own candidates. *Simulated "
        "annotators' sentences*: judged as a REFER import judges, by the words in common. `pseudoris calibrate` does "
        "all three ([listener.md](listener.md#weights-and-bounds-for-other-models))."
    )
    yield markdown_table(header, rows)
    yield "\n".join(_label_readings(result["labels"]))
    yield (
        "The composer's posterior, of what the listener says, fitted on so many scenes whose masks, nouns and words "
        "are judged (`python -m experiments.composing.posterior_fit`); what is composed, and nothing beside it, under "
        "the bounds that ship:"
    )
    fitted = [
        [str(row["scenes"]), str(row["draws"]), *_spread(row["test"]), *_spread(row["second"])]
        for row in result["composer_weights"]
    ]
    yield markdown_table(["scenes", "draws", *header[3:]], fitted)


def _label_readings(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    most = _find(rows, "all", "oracle", max(row["scenes"] for row in rows))
    none = next(row for row in rows if row["labels"] == "none")
    few = [row for row in rows if row["rule"] == "all" and row["labels"] == "oracle" and row["scenes"] < most["scenes"]]
    least = most["test"]["accuracy"]["mean"] - 0.02
    enough = next((row for row in few if row["test"]["accuracy"]["least"] >= least), None)
    yield (
        f"- From {most['scenes']} scenes everything weighed is {triple_of_means(most['test'])} (accuracy / yield / "
        f"coverage) on test scenes, without any label {triple_of_means(none['test'])}; under the second renderer "
        f"{triple_of_means(most['second'])} and {triple_of_means(none['second'])}."
    )
    if enough is None:
        yield "- No smaller number of scenes gave weights that are as good in every draw, within 0.02 of accuracy."
    else:
        yield (
            f"- {enough['scenes']} scenes suffice for accuracy: no draw of so many was less accurate by more than "
            f"0.02; the least coverage was {enough['test']['coverage']['least']:.2f}. With fewer single draws miss, "
            f"above all in yield: of {few[0]['scenes']} its deviation is {few[0]['test']['yield']['std']:.1f}, and "
            f"that of accuracy {few[0]['test']['accuracy']['std']:.2f}. All draws are from the same {most['scenes']} "
            "scenes: large ones overlap, and deviate by less than draws of other scenes would."
        )
    sentences = next(row for row in rows if row["rule"] == "all" and row["labels"] == "sentences")
    said = f"Sentences in place of the oracle: {triple_of_means(sentences['test'])} from {sentences['scenes']} scenes."
    if sentences["test"]["accuracy"]["mean"] < none["test"]["accuracy"]["mean"]:
        said += (
            " True words that nobody said count as wrong, and bounds grow wide to reach the coverage asked for: "
            "without verdicts on the very candidates, no label is the better choice."
        )
    yield f"- {said}"


def _find(rows: Sequence[Mapping[str, Any]], rule: str, labels: str, scenes: int) -> Mapping[str, Any]:
    return next(row for row in rows if (row["rule"], row["labels"], row["scenes"]) == (rule, labels, scenes))


def _named(row: Mapping[str, Any]) -> list[str]:
    return [_RULES.get(row["rule"], "five scores alike"), _LABELS[row["labels"]], str(row["scenes"] or "–")]


def _spread(figures: Mapping[str, Any]) -> Iterator[str]:
    for name in TRIPLE:
        mean, std = figures[name]["mean"], figures[name]["std"]
        yield f"{mean:.3f}" if std is None else f"{mean:.3f} ± {std:.3f}"


def _settings(options: Options) -> Mapping[str, Any]:
    """Return what composes: examples/listener-composer.yaml is another file than the preset."""
    return {"composers": {name: digest_of(settings_of(each)) for name, each in COMPOSERS.items()}}


PART = Part("listening", run, section, settings=_settings, is_appendix=True)
