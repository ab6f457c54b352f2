"""What all parts are told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Options:
    """How a run of the parts goes.

    Attributes:
        out: Folder of results and of what may be used again.
        is_quick: Fewer scenes and steps: a trial of the whole in minutes.
        processes: Of one thread each.
        seed: Of whatever a part draws itself.
        max_scenes: No set of scenes is larger; None leaves them as large as they are.
    """

    out: Path
    is_quick: bool = False
    processes: int = 2
    seed: int = 0
    max_scenes: int | None = None

    @property
    def is_whole(self) -> bool:
        """Whether this is the run that the page in docs is made of."""
        return not self.is_quick and self.seed == 0 and self.max_scenes is None

    def pick(self, whole: int, quick: int) -> int:
        """Return the number for this run."""
        return quick if self.is_quick else whole

    def scenes(self, whole: int, quick: int) -> int:
        """Return the number of scenes for this run."""
        wanted = self.pick(whole, quick)
        return wanted if self.max_scenes is None else min(wanted, self.max_scenes)


def draw_generator(seed: int, *key: int) -> np.random.Generator:
    """Return a generator that depends on its key alone, whatever was drawn before."""
    return np.random.default_rng([seed, *key])
