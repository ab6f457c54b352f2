"""Exports a finished run to the formats of other tools. Each format is a module, found by its name."""

from pseudoris.training.exports.export_request import EXPORTS, find_export
from pseudoris.training.exports.protocol import (
    CHECKING,
    WRITING,
    Export,
    ExportOptions,
    ExportReport,
    ExportRequest,
    HumanAnnotation,
    OnProgress,
)

__all__ = [
    "CHECKING",
    "EXPORTS",
    "WRITING",
    "Export",
    "ExportOptions",
    "ExportReport",
    "ExportRequest",
    "HumanAnnotation",
    "OnProgress",
    "find_export",
]
