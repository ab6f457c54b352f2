"""What every learner is trained with: batches by number, one loop, checkpoints that resume, a record of it all."""

from training.learning.config import TrainingConfig
from training.learning.feed import UnitFeed
from training.learning.folder import TrainingFolder
from training.learning.protocols import Feed, Learner
from training.learning.trainer import FitSummary, StepReport, Trainer, open_fabric

__all__ = [
    "Feed",
    "FitSummary",
    "Learner",
    "StepReport",
    "Trainer",
    "TrainingConfig",
    "TrainingFolder",
    "UnitFeed",
    "open_fabric",
]
