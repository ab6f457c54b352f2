"""What was tried beside the listener, on the candidates that are scored already; bounds are chosen anew for each.

Each is held against everything weighed (`all`) at the same aim: what only trades coverage for accuracy gains nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from benchmarks.listening.collecting import SceneRows
from benchmarks.listening.rules import FEATURE_SETS, Prune, Rule
from benchmarks.quality.tables import as_json
from schemas.confidence import weighed
from schemas.keeping import Flags, Floats
from training.calibration.fitting import choose, fit, reached
from training.evaluation.bootstrap import ImageBootstrap
from workers.filtering import noun_lexicon as lexicon

BASE: Final = "all"
# The last: sets of words that something is said of a mask with, so that a word's other place is no gain.
FIGURES: Final = ("accuracy", "yield", "coverage", "different")
PLAUSIBLE: Final = (0.001, 0.01)
# What an expression says, beside its grammar.
_EMPTY: Final = (
    lexicon.ARTICLES | lexicon.PREPOSITIONS | lexicon.PICTURES | lexicon.AUXILIARIES | {"this", "there", "it"}
)

Prepare = Callable[[SceneRows], SceneRows]


@dataclass(frozen=True)
class Attempt:
    """One idea.

    Attributes:
        prune: Leaves candidates out.
        prepare: Changes features before weights are fitted.
        has_own_bounds: Whether bounds are chosen anew; else the base's stand, and less is kept.
    """

    prune: Prune | None = None
    prepare: Prepare = lambda scene: scene
    has_own_bounds: bool = True


def contents(scene: SceneRows) -> list[frozenset[str]]:
    """Return the words of each candidate that say something."""
    return [frozenset(text.split()) - _EMPTY for text in scene.rated.texts]


def best_for_its_text(scene: SceneRows, confidence: Floats) -> Flags:
    """Return what no other mask has with more confidence, word by word."""
    return _is_best_of(scene.rated.texts, scene.rated.groups, confidence)


def best_for_its_words(scene: SceneRows, confidence: Floats) -> Flags:
    """Return what no other mask has with more confidence, in any order and grammar."""
    return _is_best_of(contents(scene), scene.rated.groups, confidence)


def grounded_by_captioner(scene: SceneRows, confidence: Floats) -> Flags:
    """Return what its own captioner takes for its mask rather than for all the others together."""
    return np.asarray(scene.rated.scores["listener"] > 0.5)


def grounded_by_clip(scene: SceneRows, confidence: Floats) -> Flags:
    """Return what CLIP finds its own mask for, first of all."""
    return ~(scene.rated.scores["distinctiveness"] <= 1.0)


def one_order(scene: SceneRows, confidence: Floats) -> Flags:
    """Return the best of a mask's candidates that say the same words."""
    return _without_near(scene, confidence, max_changed=0)


def one_word(scene: SceneRows, confidence: Floats) -> Flags:
    """Return a mask's candidates but those that differ by a word, or less, from a better one that stays."""
    return _without_near(scene, confidence, max_changed=1)


def plausible(least: float) -> Prune:
    """Return a rule that leaves out what is less than so many times as likely as its mask's likeliest candidate."""
    return lambda scene, confidence: np.asarray(_shares(scene) >= least)


def with_contrast(scene: SceneRows) -> SceneRows:
    """Return the scene with a contrast of probabilities in the place of the listener's log-odds.

    p(t | i) less the mean of p(t | k) over the other masks, by the probability of the mask's likeliest candidate. The
    others' sum follows from the listener, which is the target's share of all: a temperature of 1.
    """
    listener = np.maximum(scene.rated.scores["listener"], 1e-12)
    others = (1 / listener - 1) / max(scene.num_masks - 1, 1)
    changed = replace(scene)
    # Into the cache that the property fills: all that reads features reads these.
    vars(changed)["features"] = {**scene.features, "listener": np.clip(_shares(scene) * (1 - others), -1.0, 1.0)}
    return changed


ATTEMPTS: Final[Mapping[str, Attempt]] = {
    "joint, same text": Attempt(best_for_its_text),
    "joint, same words": Attempt(best_for_its_words),
    "contrast of probabilities": Attempt(prepare=with_contrast),
    **{f"contrast, plausible {least:g}": Attempt(plausible(least), with_contrast) for least in PLAUSIBLE},
    "grounded by the captioner": Attempt(grounded_by_captioner),
    "grounded by CLIP": Attempt(grounded_by_clip),
    "no other order": Attempt(one_order),
    "no other order, same bounds": Attempt(one_order, has_own_bounds=False),
    "no word's difference, same bounds": Attempt(one_word, has_own_bounds=False),
}


def measure_tried(
    development: Sequence[SceneRows], test: Sequence[SceneRows], aim: tuple[float, float]
) -> dict[str, Any]:
    """Return the figures of each attempt, of the base, and their paired differences.

    Args:
        development: To fit on and to choose by.
        test: To report.
        aim: Coverage and yield aimed at.
    """
    rules = {BASE: _rule(development, Attempt(), aim)}
    for name, attempt in ATTEMPTS.items():
        rules[name] = (
            _rule(development, attempt, aim) if attempt.has_own_bounds else replace(rules[BASE], prune=attempt.prune)
        )
    found = ImageBootstrap([_sums(scene, rules) for scene in test])
    return {
        "bounds": {name: rule.as_json() for name, rule in rules.items()},
        "rules": {name: {figure: as_json(found.ratio(f"{name}.{figure}")) for figure in FIGURES} for name in rules},
        "steps": {
            name: {figure: as_json(found.difference(f"{name}.{figure}", f"{BASE}.{figure}")) for figure in FIGURES}
            for name in ATTEMPTS
        },
    }


def _rule(development: Sequence[SceneRows], attempt: Attempt, aim: tuple[float, float]) -> Rule:
    scenes = [attempt.prepare(scene) for scene in development]
    weights = fit(scenes, FEATURE_SETS[BASE])
    allowed = None if attempt.prune is None else [attempt.prune(s, weighed(s.features, weights)) for s in scenes]
    found = choose(reached(scenes, weights, allowed), coverage=aim[0], least_yield=aim[1])
    return Rule(weights, found.bounds, prune=attempt.prune)


def _sums(scene: SceneRows, rules: Mapping[str, Rule]) -> dict[str, tuple[float, float]]:
    found: dict[str, tuple[float, float]] = {}
    for name, rule in rules.items():
        prepared = ATTEMPTS[name].prepare(scene) if name in ATTEMPTS else scene
        sums = {**rule.sums(prepared), "different": (_num_different(prepared, rule.keeps(prepared)), scene.num_masks)}
        found |= {f"{name}.{figure}": pair for figure, pair in sums.items()}
    return found


def _num_different(scene: SceneRows, keep: Flags) -> float:
    """How many sets of words a scene's kept expressions have, mask by mask."""
    said = zip(scene.rated.groups, contents(scene), strict=True)
    return float(len({each for each, is_kept in zip(said, keep.tolist(), strict=True) if is_kept}))


def _is_best_of(keys: Sequence[object], groups: Sequence[str], confidence: Floats) -> Flags:
    """(T,) bool: no candidate of another mask with the same key has more confidence."""
    best: defaultdict[object, dict[str, float]] = defaultdict(dict)
    rows = list(zip(keys, groups, confidence.tolist(), strict=True))
    for key, group, value in rows:
        best[key][group] = max(best[key].get(group, -np.inf), value)
    return np.array([best[key][group] >= max(best[key].values()) for key, group, _ in rows], np.bool_)


def _without_near(scene: SceneRows, confidence: Floats, *, max_changed: int) -> Flags:
    """(T,) bool: of a mask's candidates, best first, what is not near to one that is left already."""
    keep = np.zeros(len(confidence), np.bool_)
    said = contents(scene)
    left: defaultdict[str, list[frozenset[str]]] = defaultdict(list)
    for row in np.argsort(-confidence, kind="stable").tolist():
        words, others = said[row], left[scene.rated.groups[row]]
        # A word more, a word fewer, or another word in its place.
        if all(max(len(words - other), len(other - words)) > max_changed for other in others):
            keep[row] = True
            others.append(words)
    return keep


def _shares(scene: SceneRows) -> Floats:
    """p(t | i) by that of the likeliest candidate of mask i, (T,) float64."""
    scores = scene.rated.scores["caption_score"]
    best: dict[str, float] = {}
    for group, score in zip(scene.rated.groups, scores.tolist(), strict=True):
        best[group] = max(best.get(group, -np.inf), score)
    return np.exp(scores - np.array([best[group] for group in scene.rated.groups], np.float64))
