"""Mutants of the exact rows of docs/conformance.md: training, metrics and PPT."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

MUTANTS: Final[tuple[Mutant, ...]] = ()
