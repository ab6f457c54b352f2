"""SOURCE in all its forms, for planning and reading in most rooms. Listings keep the order of keys. No Ray."""

from pseudoris.store.sources.items import SourceItem
from pseudoris.store.sources.source import Source, open_source

__all__ = ["Source", "SourceItem", "open_source"]
