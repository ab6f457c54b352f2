"""The multi-source curriculum: the data sets of each phase, its length, and when Select runs (section 3.3)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from pydantic import Field, model_validator

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.frozen import FrozenModel, UnitInterval

Source = Literal["d_sem", "d_ref", "h_sem", "h_ref"]
SOURCES: Final[tuple[Source, ...]] = ("d_sem", "d_ref", "h_sem", "h_ref")
# Names of the default phases in trainings of version 0.2.0 and before: their folders and draws have them.
_FORMER_NAMES: Final = {"ris_augmented": "composed", "ris_joint": "referring"}


class PhaseConfig(FrozenModel):
    """One phase, or one step of a phase."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    # The joined data sets (equations 5 to 7), each pair once an epoch. Data sets that are not given are left out.
    sources: tuple[Source, ...] = Field(min_length=1)
    epochs: float = Field(gt=0, le=100_000)
    # Whether Select decides H_ref with the present model, before the phase and before each further round of it.
    is_selecting: bool = False
    # The epochs are split into this many rounds (equation 7). With more rounds the referents follow the model sooner,
    # but each round runs the model on all of H_ref.
    num_rounds: int = Field(default=1, ge=1, le=1000)

    @model_validator(mode="after")
    def _selects_what_it_reads(self) -> Self:
        if len(set(self.sources)) < len(self.sources):
            raise ValueError(f"Phase {self.name} names a source twice: {list(self.sources)}")
        if self.is_selecting and "h_ref" not in self.sources:
            raise ValueError(
                f"Phase {self.name} selects referents of h_ref but does not train on it. Add h_ref to its sources."
            )
        if self.num_rounds > 1 and not self.is_selecting:
            raise ValueError(
                f"Phase {self.name} has {self.num_rounds} rounds but selects nothing between them. Use 1 round."
            )
        return self


class CurriculumConfig(FrozenModel):
    """The phases, in order."""

    # The paper gives three stages of 10 + 30 + 10 epochs and the mixes. Ours are how the 30 of its RIS learning stage
    # are split over its two steps, and the number of rounds. The 30 are halved: Select is only as good as the model it
    # runs, so its choices are trained on no longer than the model took to learn to choose. The last 10 are five rounds:
    # of two epochs each, an epoch to follow the new referents and one to settle. The phases end with the paper's
    # θ_sem, θ_refD, θ_ref and θ^(i).
    phases: tuple[PhaseConfig, ...] = (
        PhaseConfig(name="semantic", sources=("h_sem", "d_sem"), epochs=10),
        PhaseConfig(name="ris_augmented", sources=("h_sem", "d_sem", "d_ref"), epochs=15),
        PhaseConfig(name="ris_joint", sources=SOURCES, epochs=15, is_selecting=True),
        PhaseConfig(name="refinement", sources=("h_sem", "h_ref"), epochs=10, is_selecting=True, num_rounds=5),
    )
    # All phases are scaled by this factor.
    epochs_factor: float = Field(default=1.0, gt=0, le=1000)
    # Ours: the paper's Select has no threshold and no undecided pair. Below this IoU with the prediction no pseudo-mask
    # is the referent. 0.5 is also what counts as found in the evaluation. At 0 every pair has a referent, right or not.
    min_iou: UnitInterval = 0.5

    @model_validator(mode="after")
    def _begins_without_a_model(self) -> Self:
        if not self.phases:
            raise ValueError("phases is empty. Name at least one.")
        twice = [name for name, count in Counter(phase.name for phase in self.phases).items() if count > 1]
        if twice:
            raise ValueError(f"Two phases have the name {twice[0]}. Names must differ.")
        if self.phases[0].is_selecting:
            raise ValueError(f"Phase {self.phases[0].name} is the first, so no model is trained yet that could select.")
        return self

    def renamed(self) -> str | None:
        """Return the new name of a phase under a former one, as `old is now called new`; None if there is none."""
        for now, former in _FORMER_NAMES.items():
            if any(phase.name == former for phase in self.phases):
                return f"{former} is now called {now}"
        return None

    def named_as(self, saved: Mapping[str, Any]) -> CurriculumConfig:
        """Return the settings under the names of a training that an older version began, if nothing else differs.

        Args:
            saved: The curriculum in that training's settings, as JSON.
        """
        phases = tuple(
            phase.model_copy(update={"name": _FORMER_NAMES.get(phase.name, phase.name)}) for phase in self.phases
        )
        former = self.model_copy(update={"phases": phases})
        return former if former.model_dump(mode="json") == saved else self


@dataclass(frozen=True, slots=True)
class Round:
    """One stretch of training on fixed data.

    Attributes:
        name: Name of its folder, in order: `03-ris_joint`, `04-refinement-1`.
        phase: Name of its phase.
        sources: The joined data sets.
        is_selecting: Whether Select comes first.
        is_last: Whether the phase ends with it, and is validated then.
        num_steps: Optimiser steps.
        steps_before: Steps of all earlier rounds.
        epochs_before: Epochs begun in earlier rounds: draws of points and flips continue from there.
    """

    name: str
    phase: str
    sources: tuple[Source, ...]
    is_selecting: bool
    is_last: bool
    num_steps: int
    steps_before: int
    epochs_before: int


def plan_rounds(
    config: CurriculumConfig,
    num_pairs: dict[Source, int],
    pairs_per_batch: int,
    *,
    num_batches: Callable[[Sequence[Source]], int] | None = None,
) -> list[Round]:
    """Return the rounds of a curriculum.

    Args:
        config: The phases.
        num_pairs: Pairs of each source; a missing or empty source is left out of every phase.
        pairs_per_batch: Pairs of all ranks together.
        num_batches: Batches that the feed makes in an epoch of sources; None if all batches are full.

    Raises:
        ConfigError: A phase has no source left.
    """
    given = {source for source, count in num_pairs.items() if count}
    rounds: list[Round] = []
    steps = epochs = 0
    for at, phase in enumerate(config.phases, start=1):
        sources = tuple(source for source in phase.sources if source in given)
        if not sources:
            raise ConfigError(
                f"Phase {phase.name} trains on {', '.join(phase.sources)}, but none of them is given. There are "
                f"pairs of {', '.join(sorted(given)) or 'no source'} (h_sem has the decided pairs of --h, h_ref the "
                "undecided ones). Give the runs, or leave the phase out of curriculum.phases."
            )
        pairs = sum(num_pairs[source] for source in sources)
        batches = -(-pairs // pairs_per_batch) if num_batches is None else num_batches(sources)
        is_selecting = phase.is_selecting and "h_ref" in sources
        num_rounds = phase.num_rounds if is_selecting else 1
        own_epochs = phase.epochs * config.epochs_factor / num_rounds
        # A rounding error must not add a step.
        own_steps = max(1, math.ceil(own_epochs * batches - 1e-9))
        for number in range(1, num_rounds + 1):
            suffix = f"-{number}" if num_rounds > 1 else ""
            name = f"{at:02d}-{phase.name}{suffix}"
            is_last = number == num_rounds
            rounds.append(Round(name, phase.name, sources, is_selecting, is_last, own_steps, steps, epochs))
            steps += own_steps
            epochs += math.ceil(own_steps / batches)
    return rounds


def describe(rounds: Sequence[Round], num_pairs: dict[Source, int]) -> list[tuple[str, str, int, int]]:
    """Return for each phase its name, its data, the pairs of an epoch and its steps."""
    told: dict[str, tuple[str, int, int]] = {}
    for each in rounds:
        steps = told[each.phase][2] if each.phase in told else 0
        pairs = sum(num_pairs[source] for source in each.sources)
        told[each.phase] = (" ∪ ".join(each.sources), pairs, steps + each.num_steps)
    return [(name, *facts) for name, facts in told.items()]
