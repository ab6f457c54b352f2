"""Weights and bounds of confidence for a user's models, from a run's tables and a few images with known truth.

Called by `calibrate` (`cli/evaluate.py`) and experiments. It reads tables only; no model is loaded, no run changed.
"""

from pseudoris.training.calibration.confidence_fit import Calibration, calibrated_run

__all__ = ["Calibration", "calibrated_run"]
