"""Code that all learners share: batches by number, one training loop, resumable checkpoints, logs.

Called by `training`, `cli` and experiments. A training that was killed and resumed ends with the
weights of one that was not.
"""

from pseudoris.training.learning.checkpoint_folder import TrainingFolder
from pseudoris.training.learning.trainer import (
    Feed,
    FitSummary,
    Learner,
    StepReport,
    Trainer,
    TrainingConfig,
    open_fabric,
)
from pseudoris.training.learning.training_data import ResumableFeed

__all__ = [
    "Feed",
    "FitSummary",
    "Learner",
    "ResumableFeed",
    "StepReport",
    "Trainer",
    "TrainingConfig",
    "TrainingFolder",
    "open_fabric",
]
