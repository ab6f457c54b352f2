"""Imports a human's annotation, or a human's corrections, as a run with the same tables, commits and readers."""

from pseudoris.training.imports.corrected_run import correct_run
from pseudoris.training.imports.import_run import ImportRequest, ImportSummary, import_annotation

__all__ = ["ImportRequest", "ImportSummary", "correct_run", "import_annotation"]
