"""Evaluates annotation against a truth, from tables alone, with intervals over images. For `cli`, `training`, users.

Users depend on `Evaluation`, `Truth`. These names load no torch: `answerers`, `model_evaluation` are imported apart.
"""

from pseudoris.training.evaluation.evaluation_report import write_report
from pseudoris.training.evaluation.human_truth import HumanTruth
from pseudoris.training.evaluation.run_evaluation import Evaluation, as_tree, evaluate_run
from pseudoris.training.evaluation.truth import Truth

__all__ = ["Evaluation", "HumanTruth", "Truth", "as_tree", "evaluate_run", "write_report"]
