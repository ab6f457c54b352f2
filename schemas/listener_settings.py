"""Settings of the listener, which scores the captioner's candidates again, and of the confidence it feeds.

A section that is off is absent, so that older runs keep their identity.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pseudoris.schemas.frozen import FrozenModel

_Weight = Annotated[float, Field(allow_inf_nan=False)]


class ListeningConfig(FrozenModel):
    """How the captioner scores a candidate t: log p(t | crop k), teacher-forced, for the masks k."""

    # Crop kinds that score a candidate, named as in the tables; the score is the mean of their log-probabilities. They
    # must be captioned kinds, whose crops are encoded already. Each further kind costs another pass.
    crops: tuple[str, ...] = Field(default=("context_1.2",), min_length=1)
    # Divides the log-probabilities before the softmax over the masks. Above 1 the listener is less certain.
    temperature: float = Field(default=1.0, gt=0)
    # The most other masks that score a candidate. If an image has more, the most similar ones do. Raised, crowded
    # images cost more.
    others_max: int = Field(default=30, ge=1)
    # Only candidates whose truth is above this are scored under other masks; for the rest `listener` is 0, and scoring
    # stops as soon as that is certain. None: all candidates are scored.
    min_truth: float | None = Field(default=None, lt=0, allow_inf_nan=False)


class ConfidenceConfig(FrozenModel):
    """Weights of a logistic regression from a candidate's scores to the probability that it is right.

    `pseudoris.schemas.confidence.features` defines what each weight multiplies. Fitted weights are valid only for the
    models that they were fitted with. For other models fit them with `pseudoris calibrate` (`docs/listener.md`).
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
        """Whether a weight reads scores of the listener."""
        return any((self.listener, self.truth, self.relative_truth, self.consensus))
