"""Imports a human's annotation, or a human's corrections, as a run. Called by `cli` and experiments.

The plan, and so the run, follows from the files and the options alone. The files are untrusted.
"""

from pseudoris.interchange.imports.annotation_files import ImportRequest
from pseudoris.interchange.imports.import_run import ImportSummary, import_annotation
from pseudoris.interchange.imports.label_studio import correct_run

__all__ = ["ImportRequest", "ImportSummary", "correct_run", "import_annotation"]
