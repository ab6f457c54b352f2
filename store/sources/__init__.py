"""All forms of SOURCE, listed in one order: folders, urls, globs, WebDataset tars, Parquet tables. No Ray."""

from pseudoris.store.sources.items import SourceItem
from pseudoris.store.sources.source import Source, open_source

__all__ = ["Source", "SourceItem", "open_source"]
