"""Evaluates annotation against a truth, from the tables alone, with intervals over images. Called by `cli` and users.

Its own names load no torch: `answerers` and `model_evaluation`, which need it, are imported as modules.
"""

from pseudoris.training.evaluation.evaluation_report import write_report
from pseudoris.training.evaluation.human_truth import HumanTruth
from pseudoris.training.evaluation.run_evaluation import Evaluation, as_tree, evaluate_run
from pseudoris.training.evaluation.truth import Truth

__all__ = ["Evaluation", "HumanTruth", "Truth", "as_tree", "evaluate_run", "write_report"]
