"""A human's annotation as a run: the same tables, written through the same commit, read by the same readers."""

from training.imports.request import ImportRequest
from training.imports.writing import ImportSummary, import_annotation

__all__ = ["ImportRequest", "ImportSummary", "import_annotation"]
