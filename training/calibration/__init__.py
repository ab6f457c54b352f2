"""Weights and bounds of confidence for a user's models, from a run's tables and a few images with known truth."""

from pseudoris.training.calibration.confidence_fit import Bounds, Calibration, calibrate, calibrated_run
from pseudoris.training.calibration.labelled_images import JudgedImage, judged_images

__all__ = ["Bounds", "Calibration", "JudgedImage", "calibrate", "calibrated_run", "judged_images"]
