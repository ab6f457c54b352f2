"""Settings of the listener: the captioner that reads its own candidates again, and what is made of its answer.

Both sections are absent where they are off; a run without them has the identity that it had before they existed.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from schemas.frozen import FrozenModel

_Weight = Annotated[float, Field(allow_inf_nan=False)]


class ListeningConfig(FrozenModel):
    """How the captioner judges the candidates: log p(t | crop k), teacher-forced, for its own and the other masks."""

    # Crop kinds under which a candidate is read, names as in the tables; the mean of their log-probabilities counts.
    # Of those that are captioned: their crops are encoded already. Each further one costs another pass.
    crops: tuple[str, ...] = Field(default=("context_1.2",), min_length=1)
    # Divides a log-probability before the softmax over the masks. Above 1 the listener is less sure of itself.
    temperature: float = Field(default=1.0, gt=0)
    # How many other masks are asked; beyond them, the most similar ones. Raised, crowded images cost more.
    others_max: int = Field(default=30, ge=1)
    # Only candidates whose truth lies above are asked of other masks; of the rest, `listener` is 0. The walk leaves
    # them as soon as that is certain. None asks all.
    min_truth: float | None = Field(default=None, lt=0, allow_inf_nan=False)


class ConfidenceConfig(FrozenModel):
    """Weights of a logistic regression from a candidate's scores to the probability that it is right.

    What each is multiplied with is said by `schemas.confidence.features`. Fitted weights belong to the models they
    were fitted with: `pseudoris calibrate` makes them for others, `docs/listener.md` says how.
    """

    bias: _Weight = 0.0
    # These four need `captions.listening`.
    listener: _Weight = 0.0
    truth: _Weight = 0.0
    relative_truth: _Weight = 0.0
    consensus: _Weight = 0.0
    vote: _Weight = 0.0
    log_uniqueness: _Weight = 0.0
    log_distinctiveness: _Weight = 0.0
    correctness: _Weight = 0.0
    log_count: _Weight = 0.0
    num_words: _Weight = 0.0

    @property
    def needs_listener(self) -> bool:
        """Whether a weight reads what only a listener knows."""
        return any((self.listener, self.truth, self.relative_truth, self.consensus))
