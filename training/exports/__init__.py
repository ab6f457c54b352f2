"""Exports a finished run to the formats of other tools. Each format is a module, found by its name."""

from pseudoris.training.exports.export_job import ExportFormat
from pseudoris.training.exports.export_request import EXPORTS, export_request, find_export
from pseudoris.training.exports.protocol import (
    WRITING,
    ExportOptions,
    ExportReport,
    ExportRequest,
    HumanAnnotation,
)

__all__ = [
    "EXPORTS",
    "WRITING",
    "ExportFormat",
    "ExportOptions",
    "ExportReport",
    "ExportRequest",
    "HumanAnnotation",
    "export_request",
    "find_export",
]
