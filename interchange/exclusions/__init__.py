"""Reads what `--exclude` and `--only` name into rules. Called by `cli/options`, `SampleSpec` and `pseudoris`.

A path of an unknown kind is refused, never ignored.
"""

from pseudoris.interchange.exclusions.exclude_option import as_exclusions, read_exclusions

__all__ = ["as_exclusions", "read_exclusions"]
