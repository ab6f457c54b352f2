"""SOURCE in all its forms, for planning and reading: files, tars, tables, uris. Listings keep one order. No Ray."""

from pseudoris.store.sources.items import SourceItem
from pseudoris.store.sources.source import Source, open_source

__all__ = ["Source", "SourceItem", "open_source"]
