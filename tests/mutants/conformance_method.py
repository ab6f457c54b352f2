"""Mutants of the exact rows of docs/conformance.md: masks, crops, captions and filtering."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

MUTANTS: Final[tuple[Mutant, ...]] = ()
