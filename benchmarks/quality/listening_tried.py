"""What was tried beside the listener, and how many labels it needs, on the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from benchmarks.quality.parts import Result
from benchmarks.quality.tables import (
    TRIPLE,
    Figure,
    cell,
    is_above_zero,
    is_below_zero,
    markdown_table,
    triple_of_means,
    value,
)

_TRIED: Final = {
    "joint, same text": "joint: kept for the mask that it is best for, by its text",
    "joint, same words": "… by its words",
    "contrast of probabilities": "p(t \\| i) − mean p(t \\| k) for the listener's log-odds",
    "contrast, plausible 0.001": "… if p(t \\| i) is 0.001 of the mask's best",
    "contrast, plausible 0.01": "… if it is 0.01 of it",
    "grounded by the captioner": "grounded back: listener > 0.5",
    "grounded by CLIP": "grounded back: CLIP's first mask is its own",
    "no other order": "no second order of the same words",
    "no other order, same bounds": "… under the same bounds",
    "no word's difference, same bounds": "nothing a word away from a better one, same bounds",
}
_REDRAWN: Final = {"drawn": "all that is drawn", "preset": "the shipped filter", "all": "everything weighed"}
_RULES: Final = {"clip+vote": "CLIP's scores and the vote", "all": "everything"}
_LABELS: Final = {"none": "none", "oracle": "the oracle's", "sentences": "people's sentences"}


def section(result: Result) -> list[str]:
    """Return the blocks of Markdown that stand behind the aims."""
    return [*_tried(result), *_redrawn(result), *_labels(result)]


def _tried(result: Result) -> Iterator[str]:
    tried = result["tried"]
    base = tried["rules"]["all"]
    header = ["beside everything weighed", "accuracy", "difference", "a mask", "of other words", "coverage", ""]
    rows = [["everything", cell(base["accuracy"]), "", *_rest(base), ""]]
    for name, title in _TRIED.items():
        figures, step = tried["rules"][name], tried["steps"][name]
        difference = cell(step["accuracy"], sign="+")
        rows.append([title, value(figures["accuracy"]), difference, *_rest(figures), _verdict(step)])
    yield "### What was tried beside it"
    yield (
        "The same candidates and features; bounds chosen anew on development scenes, for a coverage of 0.65 and a "
        "yield of 2, unless it says otherwise. *Of other words*: sets of words a mask, so that another order of the "
        "same is no gain. None of it is an option: what helped is in *everything*."
    )
    yield markdown_table(header, rows)
    yield "\n".join(
        [
            "Explanations, each of figures above and none measured apart:\n",
            "- Joint assignment has little left to do: a text that two masks share is ambiguous, and listener and "
            "uniqueness have put it below the bound already.",
            "- A contrast of probabilities is ruled by the few likeliest texts of a mask; the listener's log-odds ask "
            "of each text alone whose it is.",
            "- The listener *is* the cycle: it grounds an expression back to a mask, and its log-odds are a weight. As "
            "a condition on top it changes next to nothing.",
            "- Of the expressions kept of a mask many are one in another order. Leaving these out makes room for other "
            "words, which are wrong more often: yield and variety are bought with accuracy.",
        ]
    )


def _redrawn(result: Result) -> Iterator[str]:
    redrawn = result["redrawn"]
    yield (
        "Others weighted by similarity when captions are drawn (`captions.sampling.others_weighting=similar`), the "
        f"first {redrawn['scenes']} test scenes drawn anew; weights and bounds of the mean's candidates:"
    )
    header = ["kept", "accuracy, mean", "accuracy, similar", "difference", "difference a mask", "of coverage", ""]
    yield markdown_table(
        header,
        (
            [
                title,
                *(cell(redrawn[kept][how]["accuracy"]) for how in ("mean", "similar")),
                *(cell(redrawn[kept]["step"][figure], sign="+") for figure in TRIPLE),
                _verdict(redrawn[kept]["step"]),
            ]
            for kept, title in _REDRAWN.items()
        ),
    )
    accuracy = {kept: cell(redrawn[kept]["step"]["accuracy"], sign="+") for kept in _REDRAWN}
    yield (
        f"- What is drawn against similar masks above all differs in accuracy by {accuracy['drawn']}, and by "
        f"{accuracy['preset']} behind the shipped filter; under weights that were fitted to other draws by "
        f"{accuracy['all']}. Weights belong to how captions are drawn. It stays an option, off in every preset."
    )


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
        "standard deviations, with the bound that keeps two a mask, each world by its own candidates. *People's "
        "sentences*: judged as a REFER import judges, by the words in common. `pseudoris calibrate` does all three "
        "([listener.md](listener.md#weights-and-bounds-for-other-models))."
    )
    yield markdown_table(header, rows)
    yield "\n".join(_label_readings(result["labels"]))
    yield (
        "The composer's posterior, of what the listener says, fitted on so many scenes whose masks, nouns and words "
        "are judged (`python -m benchmarks.composing.fitting`); what is composed, and nothing beside it, under the "
        "bounds that ship:"
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


def _rest(figures: Mapping[str, Figure]) -> list[str]:
    return [value(figures["yield"], 2), value(figures["different"], 2), value(figures["coverage"])]


def _verdict(step: Mapping[str, Figure]) -> str:
    if is_above_zero(step["accuracy"]):
        return "more accurate"
    return "less accurate" if is_below_zero(step["accuracy"]) else "no gain"
