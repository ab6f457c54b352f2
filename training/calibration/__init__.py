"""Weights and bounds of confidence for one's own models, from a run's tables and a few images whose truth is known."""

from training.calibration.fitting import Bounds, Calibration, calibrate
from training.calibration.judged import JudgedImage
from training.calibration.reading import calibrated_run, judged_images

__all__ = ["Bounds", "Calibration", "JudgedImage", "calibrate", "calibrated_run", "judged_images"]
