"""Annotation held against a truth: from the tables alone, with intervals over images."""

from training.evaluation.evaluating import evaluate_run
from training.evaluation.figures import Evaluation, as_tree
from training.evaluation.human_truth import HumanTruth
from training.evaluation.report import write_report
from training.evaluation.truth import ImageTruth, Truth

__all__ = ["Evaluation", "HumanTruth", "ImageTruth", "Truth", "as_tree", "evaluate_run", "write_report"]
