"""A finished run in the form that somebody else's reader wants: one module a format, found by its name."""

from training.exports.formats import EXPORTS, find_export
from training.exports.protocol import Export, ExportReport, ExportRequest

__all__ = ["EXPORTS", "Export", "ExportReport", "ExportRequest", "find_export"]
