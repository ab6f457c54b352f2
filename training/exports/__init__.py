"""A finished run in the form that somebody else's reader wants: one module a format, found by its name."""

from training.exports.formats import EXPORTS, find_export
from training.exports.protocol import (
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
