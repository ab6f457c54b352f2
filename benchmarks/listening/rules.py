"""What is kept of a scene's candidates: weights, bounds, what is left out before, and who speaks beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.listening.collecting import SceneRows
from schemas.confidence import weighed
from schemas.keeping import Flags, Floats
from schemas.listening import ConfidenceConfig
from training.calibration.fitting import CLIP, EVERYTHING, LISTENER, VOTE, Bounds
from training.evaluation.bootstrap import Sums

# What is weighed, from what a run has in any case to everything.
FEATURE_SETS: Final[Mapping[str, tuple[str, ...]]] = {
    "clip": CLIP,
    "clip+vote": VOTE,
    "clip+listener": (*CLIP, *LISTENER),
    "all": EVERYTHING,
}
# From a scene and the confidence of its T candidates to (T,) bool: which of them are there at all.
Prune = Callable[[SceneRows, Floats], Flags]


@dataclass(frozen=True)
class Rule:
    """What is kept: what `prune` leaves, ranked by `weights`, within `bounds`; beside it what a composer says."""

    weights: ConfidenceConfig
    bounds: Bounds
    composer: str | None = None
    prune: Prune | None = None

    def keeps(self, scene: SceneRows) -> Flags:
        """Return (T,) bool."""
        allowed = None if self.prune is None else self.prune(scene, weighed(scene.features, self.weights))
        return self.bounds.keeps(scene, self.weights, allowed)

    def sums(self, scene: SceneRows) -> Sums:
        """Return numerator and denominator of accuracy, yield and coverage."""
        return scene.beside_composer(self.composer).sums(self.keeps(scene))

    def as_json(self) -> dict[str, Any]:
        """Return the bounds."""
        return {**vars(self.bounds), "composer": self.composer}
