"""SOURCE in all its forms, listed in one order: folders, urls, globs, WebDataset tars, Parquet tables. No Ray."""

from store.sources.items import SourceItem, StoredFile
from store.sources.opening import Source, open_source

__all__ = ["Source", "SourceItem", "StoredFile", "open_source"]
