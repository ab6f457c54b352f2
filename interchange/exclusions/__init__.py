"""Reads what `--exclude` names: REFER datasets, lists of names, tables of hashes, folders of images."""

from pseudoris.interchange.exclusions.exclude_option import as_exclusions, read_exclusions

__all__ = ["as_exclusions", "read_exclusions"]
