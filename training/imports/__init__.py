"""Imports a human's annotation as a run, with the same tables, commits and readers."""

from pseudoris.training.imports.import_run import ImportRequest, ImportSummary, import_annotation

__all__ = ["ImportRequest", "ImportSummary", "import_annotation"]
