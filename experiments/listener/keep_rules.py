"""Which of a scene's candidates a rule keeps, and its figures, with intervals over scenes and paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from experiments.listener.judged_scenes import SceneRows
from experiments.quality.annotated_scenes import PAPER_TAU
from experiments.quality.markdown_cells import as_json
from pseudoris.schemas.caption_settings import ConfidenceConfig
from pseudoris.schemas.keep_rule import Flags, is_above
from pseudoris.training.calibration.confidence_fit import CLIP, EVERYTHING, LISTENER, VOTE, Bounds
from pseudoris.training.evaluation.bootstrap import ImageBootstrap, Sums

# What is weighed, from what a run has in any case to everything.
FEATURE_SETS: Final[Mapping[str, tuple[str, ...]]] = {
    "clip": CLIP,
    "clip+vote": VOTE,
    "clip+listener": (*CLIP, *LISTENER),
    "all": EVERYTHING,
}
FIGURES: Final = ("accuracy", "yield", "coverage")


@dataclass(frozen=True)
class Rule:
    """Keeps what lies within `bounds` when ranked by `weights`; what a composer says beside it is always kept."""

    weights: ConfidenceConfig
    bounds: Bounds
    composer: str | None = None

    def sums(self, scene: SceneRows) -> Sums:
        """Return numerator and denominator of accuracy, yield and coverage."""
        return scene.beside_composer(self.composer).sums(self.bounds.keeps(scene, self.weights))

    def as_json(self) -> dict[str, Any]:
        """Return the bounds."""
        return {**vars(self.bounds), "composer": self.composer}


def by_tau(scene: SceneRows, tau: float) -> Flags:
    """Return what the paper's filter keeps, (T,) bool."""
    return is_above(scene.rated.scores["distinctiveness"], tau)


def bootstrap(scenes: Sequence[SceneRows], tau: float, rules: Mapping[str, Rule]) -> ImageBootstrap:
    """Return the figures of each rule over the same resamples of scenes, named `<rule>.<figure>`.

    Args:
        scenes: Test scenes.
        tau: Of the preset's own filter, the rule `preset`; beside it stand `paper`, and `right`: every right candidate.
        rules: By name.
    """

    def sums(scene: SceneRows) -> dict[str, tuple[float, float]]:
        found = {
            "right": scene.sums(scene.is_right),
            "paper": scene.sums(by_tau(scene, PAPER_TAU)),
            "preset": scene.sums(by_tau(scene, tau)),
            **{name: rule.sums(scene) for name, rule in rules.items()},
        }
        return {f"{name}.{key}": pair for name, each in found.items() for key, pair in each.items()}

    return ImageBootstrap([sums(scene) for scene in scenes])


def rule_tree(found: ImageBootstrap, name: str) -> dict[str, Any]:
    """Return a rule's figures as JSON values, each with its interval."""
    return {figure: as_json(found.ratio(f"{name}.{figure}")) for figure in FIGURES}


def step_tree(found: ImageBootstrap, better: str, worse: str) -> dict[str, Any]:
    """Return by how much a rule exceeds another, paired over scenes, as JSON values."""
    return {figure: as_json(found.difference(f"{better}.{figure}", f"{worse}.{figure}")) for figure in FIGURES}
